/** Loaded before every file of a long run: one seed for all properties, so that its evidence can be had again. */
import fc from "fast-check";

fc.configureGlobal({ seed: Number(process.env["SKEIN_SEED"]) });

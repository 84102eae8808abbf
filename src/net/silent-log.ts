import type { ComponentLogger, Logger } from "@libp2p/interface";

const nothing = (): void => {};
const SILENT: Logger = Object.assign(nothing, {
  error: nothing,
  trace: nothing,
  enabled: false,
  newScope: () => SILENT,
});

/** libp2p logs peer ids and addresses when DEBUG is set; here it never does. */
export const silentLog: ComponentLogger = { forComponent: () => SILENT };

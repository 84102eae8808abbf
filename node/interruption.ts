import { Failure } from "#src/runtime/failure.ts";

/** Asking who our parent is costs a microsecond. */
const PARENT_LOOK_MS = 100;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** What a shell reports of a command that Ctrl-C ended. */
const EXIT_INSISTED = 130;

/**
 * Aborted when somebody asks us to end: by a signal, or by ending the npm that started us. A second signal insists.
 *
 * `npx` and `npm start` run us below a shell and hand a signal to that shell, which dies of it without telling us. Nobody
 * could end us any more, and the store would stay locked. So below npm, losing the parent is being asked to end.
 */
export function interruption(): AbortSignal {
  const controller = new AbortController();
  const ask = (): void => controller.abort(new Failure("interrupted", "Interrupted."));
  for (const signal of SIGNALS) {
    process.on(signal, () => {
      if (controller.signal.aborted) process.exit(EXIT_INSISTED);
      ask();
    });
  }
  if (process.env["npm_lifecycle_event"] !== undefined) {
    const parent = process.ppid;
    const timer = setInterval(() => {
      if (process.ppid === parent) return;
      clearInterval(timer);
      ask();
    }, PARENT_LOOK_MS);
    timer.unref();
  }
  return controller.signal;
}

/** Resolves when `signal` is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    else signal.addEventListener("abort", () => done(), { once: true });
  });
}

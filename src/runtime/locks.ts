import { assert } from "#protocols/base/reject.ts";

type Request = { waitingFor: number; readonly names: readonly string[]; readonly grant: () => void };

/**
 * Locks by name, first come first served. A request queues for all its names in one synchronous move and is granted when it
 * heads every queue; of two requests that share names the earlier is ahead in all of them, so no cycle of waiting can form.
 */
export class Locks {
  readonly #queues = new Map<string, Set<Request>>();

  /** @param names Without repetitions. @returns Releases them; to be called exactly once. */
  acquire(names: readonly string[]): Promise<() => void> {
    return new Promise((resolve) => {
      const request: Request = { waitingFor: 0, names, grant: () => resolve(this.#releaser(request)) };
      for (const name of names) {
        const queue = this.#queues.get(name);
        if (queue === undefined) {
          this.#queues.set(name, new Set([request]));
        } else {
          assert(!queue.has(request), "lock names do not repeat");
          queue.add(request);
          request.waitingFor++;
        }
      }
      if (request.waitingFor === 0) request.grant();
    });
  }

  #releaser(request: Request): () => void {
    let held = true;
    return () => {
      assert(held, "locks are released once");
      held = false;
      for (const name of request.names) this.#leave(name, request);
    };
  }

  #leave(name: string, request: Request): void {
    const queue = this.#queues.get(name)!;
    queue.delete(request);
    const [next] = queue;
    if (next === undefined) this.#queues.delete(name);
    else if (--next.waitingFor === 0) next.grant();
  }
}

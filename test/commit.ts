import { execFileSync } from "node:child_process";

/** The commit that figures were measured on, with "+" behind it where files were changed since; null outside a repository. */
export function commitId(): string | null {
  const git = (...args: string[]): string =>
    execFileSync("git", args, {
      cwd: import.meta.dirname,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  try {
    const changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/docs/evidence") !== "";
    return git("rev-parse", "HEAD") + (changed ? "+" : "");
  } catch {
    // No git, or no repository: a package that was unpacked.
    return null;
  }
}

/**
 * Reads which modules a source file names. A small scanner and not the compiler: TypeScript 7 has no JavaScript API, and
 * dependency-cruiser beside it cruises nothing and says so with exit code 0. Type-only imports count: a relay that names a
 * ratchet's type is on its way to importing the ratchet.
 */

/** A specifier that is no literal cannot be checked, and is a breach of its own. */
export const COMPUTED = "<computed>";

type Token = { readonly kind: "word" | "string" | "punctuation"; readonly text: string };

/** After these a slash begins a regular expression; after a value it divides. */
const BEFORE_REGEX = new Set(["return", "typeof", "case", "in", "of", "await", "yield", "void"]);
const BEFORE_REGEX_MARKS = "(,=:[!&|?{};+-*%<>~^";

/** End of the template literal that begins at `start`: nested `${…}` are skipped with what they hold. */
function skipTemplate(source: string, start: number): number {
  let depth = 0;
  for (let i = start + 1; i < source.length; i++) {
    const char = source[i]!;
    if (char === "\\") i++;
    else if (depth === 0 && char === "`") return i + 1;
    else if (char === "$" && source[i + 1] === "{") [depth, i] = [depth + 1, i + 1];
    else if (depth > 0 && char === "{") depth++;
    else if (depth > 0 && char === "}") depth--;
    else if (depth > 0 && char === "`") i = skipTemplate(source, i) - 1;
  }
  return source.length;
}

/** End of the regular expression that begins at `start`. A slash inside a class does not end it. */
function skipRegex(source: string, start: number): number {
  let inClass = false;
  for (let i = start + 1; i < source.length; i++) {
    const char = source[i]!;
    if (char === "\\") i++;
    else if (char === "[") inClass = true;
    else if (char === "]") inClass = false;
    else if (char === "\n" || (char === "/" && !inClass)) return i + 1;
  }
  return source.length;
}

function* tokens(source: string): Generator<Token> {
  let last = ";";
  for (let i = 0; i < source.length;) {
    const char = source[i]!;
    if (/\s/.test(char)) {
      i++;
    } else if (source.startsWith("//", i)) {
      const end = source.indexOf("\n", i);
      i = end < 0 ? source.length : end;
    } else if (source.startsWith("/*", i)) {
      const end = source.indexOf("*/", i + 2);
      i = end < 0 ? source.length : end + 2;
    } else if (char === '"' || char === "'") {
      let end = i + 1;
      while (end < source.length && source[end] !== char) end += source[end] === "\\" ? 2 : 1;
      yield { kind: "string", text: source.slice(i + 1, end) };
      [last, i] = ["string", end + 1];
    } else if (char === "`") {
      i = skipTemplate(source, i);
      yield { kind: "punctuation", text: "`" };
      last = "string";
    } else if (char === "/" && (BEFORE_REGEX.has(last) || BEFORE_REGEX_MARKS.includes(last))) {
      i = skipRegex(source, i);
      last = "regex";
    } else if (/[\w$]/.test(char)) {
      let end = i + 1;
      while (end < source.length && /[\w$]/.test(source[end]!)) end++;
      yield { kind: "word", text: source.slice(i, end) };
      [last, i] = [source.slice(i, end), end];
    } else {
      yield { kind: "punctuation", text: char };
      [last, i] = [char, i + 1];
    }
  }
}

/** @returns Every specifier of an import, export-from, side-effect import or dynamic import, in order. */
export function specifiers(source: string): readonly string[] {
  const found: string[] = [];
  const all = [...tokens(source)];
  for (const [i, token] of all.entries()) {
    if (token.kind !== "word") continue;
    // `obj.import(x)`, `async import(x) {`: names of ours, not keywords.
    const before = all[i - 1];
    if (before?.text === "." || before?.text === "async") continue;
    const next = all[i + 1];
    if (token.text === "from" && next?.kind === "string") found.push(next.text);
    if (token.text === "import" && next?.kind === "string") found.push(next.text);
    if (token.text === "import" && next?.text === "(" && next.kind === "punctuation") {
      const argument = all[i + 2];
      found.push(argument?.kind === "string" ? argument.text : COMPUTED);
    }
  }
  return found;
}

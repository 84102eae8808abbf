import { expect, test } from "vitest";
import { createOutput, printable, table } from "./output.ts";

function sink(): { write(text: string): void; text: string } {
  return {
    text: "",
    write(text) {
      this.text += text;
    },
  };
}

test("with --json a result is one line, whatever it holds, and notes go to stderr", () => {
  const [stdout, stderr] = [sink(), sink()];
  const output = createOutput({ json: true, stdout, stderr });
  output.print({ text: "two\nlines \u2028" }, () => "never asked for");
  output.note("by the way");
  expect(stdout.text.split("\n")).toHaveLength(2);
  expect(JSON.parse(stdout.text)).toEqual({ text: "two\nlines \u2028" });
  expect(stderr.text).toBe("by the way\n");
});

test("text of others can't move the cursor, ring, retitle the window or turn the line around", () => {
  const nasty = "\u001b[2Ja\u0007\u009b31mb\u001b]0;title\u0007\u202ecba\u2066\r\b\u007f";
  // eslint-disable-next-line no-control-regex -- control characters are what this is about
  expect(printable(nasty)).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/);
  expect(printable("héllo 👋\nfamily 👨‍👩‍👧 שלום")).toBe("héllo 👋\nfamily 👨‍👩‍👧 שלום");
});

test("columns line up", () => {
  expect(
    table([
      ["a", "long", "x"],
      ["bcd", "s", ""],
    ]),
  ).toBe("a    long  x\nbcd  s");
});

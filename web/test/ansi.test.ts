import { describe, expect, test } from "vitest";
import { LINE_MAX, pieces, plain } from "../src/ansi";

const text = (line: string) =>
  pieces(line)
    .map((piece) => piece.text)
    .join("");

describe("a line of a log", () => {
  test("keeps colours and weights as classes, and nothing of the sequences", () => {
    expect(pieces("a \u001b[1;31merror\u001b[0m b")).toEqual([
      { text: "a ", look: "" },
      { text: "error", look: "a1 f1" },
      { text: " b", look: "" },
    ]);
    expect(pieces("\u001b[38;5;2mgreen\u001b[39m \u001b[38;2;1;2;3mplain\u001b[92mbright")).toEqual([
      { text: "green", look: "f2" },
      { text: " ", look: "" },
      { text: "plain", look: "" },
      { text: "bright", look: "f2" },
    ]);
  });

  test("of whatever a program prints shows text alone", () => {
    for (const [line, shown] of [
      ["\u001b]8;;http://evil.example\u0007click\u001b]8;;\u0007", "click"],
      ["\u001b[2J\u001b[Hgone", "gone"],
      ["a\u0000b\u0007c\u009b31md", "abc31md"],
      ["\u001b", ""],
      ["\u001b[", ""],
      ["\u202egnp.exe", "gnp.exe"],
      ["<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"],
    ] as const) {
      expect(text(line)).toBe(shown);
      expect(plain(line)).toBe(shown);
    }
  });

  test("that was drawn again and again is what was drawn last", () => {
    expect(text("10 %\r50 %\r100 %\r")).toBe("100 %");
    expect(text("whole\r\n".trimEnd())).toBe("whole");
  });

  test("without an end is cut, and read in no time", () => {
    expect(text("x".repeat(1_000_000))).toHaveLength(LINE_MAX);
    expect(text("\u001b[".repeat(100_000)).length).toBeLessThanOrEqual(LINE_MAX);
  });
});

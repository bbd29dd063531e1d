/**
 * Lines as a terminal would show them: colours and weights as classes, carriage returns obeyed, everything else that
 * a terminal acts on left out. The text is data whatever it holds.
 */

export interface Piece {
  text: string;
  /** Names of classes, joined by blanks; empty: plain. */
  look: string;
}

/** Cells of a line that are shown; programs print megabytes without a line end. */
export const LINE_MAX = 4_000;

// Escape sequences: CSI, OSC with its end, and the short ones.
const ESCAPES = /\u001b(?:\[([0-?]*)[ -/]*([@-~])|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[ -/]*[0-~])|\u001b/g;
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

interface Style {
  marks: Set<number>;
  colour: number | undefined;
}

export function pieces(line: string): Piece[] {
  const found: Piece[] = [];
  const style: Style = { marks: new Set(), colour: undefined };
  let last = 0;
  let room = LINE_MAX;
  const add = (raw: string) => {
    const text = raw.replace(CONTROLS, "").slice(0, room);
    room -= text.length;
    if (text !== "") found.push({ text, look: look(style) });
  };
  const shown = afterReturns(line);
  for (const match of shown.matchAll(ESCAPES)) {
    add(shown.slice(last, match.index));
    last = match.index + match[0].length;
    if (match[2] === "m") apply(style, match[1] ?? "");
  }
  add(shown.slice(last));
  return found;
}

/** The text alone, for searching and copying. */
export function plain(line: string): string {
  return afterReturns(line).replace(ESCAPES, "").replace(CONTROLS, "");
}

/** A progress bar draws its line again and again: what it drew last is what there is to read. */
function afterReturns(line: string): string {
  const trimmed = line.replace(/\r+$/, "");
  const at = trimmed.lastIndexOf("\r");
  return at < 0 ? trimmed : trimmed.slice(at + 1);
}

function apply(style: Style, parameters: string): void {
  const codes = parameters === "" ? [0] : parameters.split(/[;:]/).map(Number);
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at] ?? 0;
    if (code === 0) {
      style.marks.clear();
      style.colour = undefined;
    } else if ([1, 2, 3, 4, 9].includes(code)) style.marks.add(code);
    else if (code === 22) {
      style.marks.delete(1);
      style.marks.delete(2);
    } else if ([23, 24, 29].includes(code)) style.marks.delete(code - 20);
    else if (code >= 30 && code <= 37) style.colour = code - 30;
    else if (code >= 90 && code <= 97) style.colour = code - 90;
    else if (code === 39) style.colour = undefined;
    else if (code === 38 || code === 48) {
      // 256 colours take one more number, true colours three: of these the first sixteen are ours.
      const kind = codes[at + 1];
      const value = codes[at + 2] ?? 0;
      if (code === 38 && kind === 5 && value < 16) style.colour = value % 8;
      at += kind === 5 ? 2 : kind === 2 ? 4 : 0;
    }
  }
}

function look(style: Style): string {
  const names = [...style.marks].map((mark) => `a${mark}`);
  if (style.colour !== undefined) names.push(`f${style.colour}`);
  return names.join(" ");
}

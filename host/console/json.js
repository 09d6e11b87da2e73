// JSON as text: shown as it was stored, because a number read into a double and written again may be
// another number.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs;

/** Characters that are laid out; more are shown as they are. */
const LAID_OUT_MAX = 1 << 20;

/** The same JSON, a member or an element a line. */
export function reindent(text) {
  if (text.length > LAID_OUT_MAX) return text;
  const out = [];
  let depth = 0;
  let opened = false;
  const line = () => out.push("\n", "  ".repeat(depth));
  for (const [token] of text.matchAll(TOKEN)) {
    const closes = token === "}" || token === "]";
    if (closes) depth -= 1;
    // What is empty stays on its line.
    if (opened !== closes) line();
    opened = token === "{" || token === "[";
    out.push(token);
    if (opened) depth += 1;
    if (token === ",") line();
    if (token === ":") out.push(" ");
  }
  return out.join("");
}

/** The text of a member of a JSON object; undefined: it has none of that name. */
export function member(text, name) {
  let depth = 0;
  let found;
  let previous = "";
  let key = "";
  for (const match of text.matchAll(TOKEN)) {
    const token = match[0];
    if (token === "}" || token === "]") depth -= 1;
    const ends = depth === 1 ? token === "," : depth === 0 && token === "}";
    if (found !== undefined && ends) return text.slice(found, match.index).trim();
    if (depth === 1 && token === ":") {
      key = JSON.parse(previous);
      if (key === name) found = match.index + 1;
    }
    if (token === "{" || token === "[") depth += 1;
    previous = token;
  }
  return undefined;
}

/** The texts of the elements of a JSON array. */
export function elements(text) {
  const found = [];
  let depth = 0;
  let begun;
  for (const match of text.matchAll(TOKEN)) {
    const token = match[0];
    if (token === "}" || token === "]") depth -= 1;
    const ends = depth === 1 ? token === "," : depth === 0 && token === "]";
    if (begun !== undefined && ends) {
      found.push(text.slice(begun, match.index).trim());
      begun = undefined;
    } else if (begun === undefined && depth === 1) {
      begun = match.index;
    }
    if (token === "{" || token === "[") depth += 1;
  }
  return found;
}

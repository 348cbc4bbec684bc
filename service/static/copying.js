// The result as JSON, or as the curl command that gets it.
import { casePath, fileName } from "./requests.js";

const $ = (id) => document.getElementById(id);

export const asJson = (answer) => JSON.stringify(answer, null, 2);

export function asCurl(query, options, keyed) {
  const key = keyed ? ' -H "Authorization: Bearer $CASEBOOK_KEY"' : "";
  if (query.id && query.id.split("/")[0] === options.dataset) {
    const body = quote(JSON.stringify({ id: query.id, ...options }));
    return `curl -sS${key} ${address("search")} \\\n  -H 'Content-Type: application/json' \\\n  -d ${body}`;
  }
  const lines = Object.entries(options).map(([name, value]) => `--form-string ${quote(`${name}=${value}`)}`);
  lines.unshift(`-F ${quote(`file=${query.id ? `@-;filename=${inForm(fileName(query))}` : upload(query.name)}`)}`);
  const command = [`curl -sS${key} ${address("classify")}`, ...lines].join(" \\\n  ");
  if (!query.id) return command;
  return `curl -sS${key} ${address(query.case.image ?? `${casePath(query.id)}/image`)} |\n${command}`;
}

const address = (path) => quote(new URL(path, document.baseURI).href);

// curl reads a name in double quotes to its end; "-" alone would be its standard input.
const upload = (name) => `@${inForm(name === "-" ? "./-" : name)}`;
const inForm = (name) => `"${name.replace(/[\\"]/g, "\\$&")}"`;

// One word for a shell. Control characters are written as escapes, so that a terminal is not led by them.
export function quote(text) {
  if (!/[\x00-\x1f\x7f-\x9f]/.test(text)) return `'${text.replaceAll("'", "'\\''")}'`;
  const escaped = text
    .replace(/[\\']/g, "\\$&")
    .replace(/[\x00-\x1f\x7f]/g, (letter) => `\\x${letter.charCodeAt(0).toString(16).padStart(2, "0")}`)
    .replace(/[\x80-\x9f]/g, (letter) => `\\u00${letter.charCodeAt(0).toString(16)}`);
  return `$'${escaped}'`;
}

// Resolves to whether the browser took it; it may not on plain http, or may be told not to.
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

// Where the browser does not take it, the text is shown selected.
export async function copy(text, what) {
  const copied = await toClipboard(text);
  $("copied").textContent = copied ? `${what} copied` : "";
  $("copy-by-hand").hidden = copied;
  if (copied) return;
  $("copy-text").value = text;
  $("copy-text").focus();
  $("copy-text").select();
}

// Files that were chosen: read at once, and kept while the page is.
import { Failure } from "./requests.js";

const limit = Number(document.querySelector("main").dataset.uploadLimit);
const KEPT = 20; // chosen files that the history can bring back

const uploads = new Map(); // {key, file, name, url} by key

export const keptUpload = (key) => uploads.get(key) ?? null;

export function keep(file, name) {
  const key = `${performance.timeOrigin}+${performance.now()}`; // of no other visit
  const upload = { key, file, name, url: URL.createObjectURL(file) };
  uploads.set(key, upload);
  const [oldest] = uploads.values();
  if (uploads.size > KEPT) {
    uploads.delete(oldest.key);
    URL.revokeObjectURL(oldest.url);
  }
  return upload;
}

// Read at once, so that a folder, or a file that changes later, is known as such.
export async function readFile(file) {
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
  if (file.size > limit) {
    throw new Failure("The file is too large", `${file.name} has ${megabytes(file.size)}; up to ${megabytes(limit)} are taken. Send a smaller version of it.`);
  }
  try {
    return new Blob([await file.arrayBuffer()], { type: file.type });
  } catch {
    throw new Failure("The file cannot be read", `${file.name} is a folder, or has been moved or changed. Choose it again.`);
  }
}

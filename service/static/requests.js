// Asking the service. Every failure becomes a Failure whose message can be shown as it is.

export class Failure extends Error {
  constructor(title, message, again = false, status = 0) {
    super(message);
    this.title = title;
    this.again = again; // whether the same request may succeed later
    this.status = status; // of HTTP, where there is one
  }
}

export const casePath = (id) => `cases/${id.split("/").map(encodeURIComponent).join("/")}`;

const CASE = /^[^/]+\/(train|val|test|added)\/\d{1,18}$/;

export async function findCase(id, signal) {
  if (!CASE.test(id)) {
    throw new Failure("No such case", `“${id}” is not the name of a case: a name has a dataset, a split and a number, as in phantom-cells/test/30. Choose another image.`);
  }
  try {
    return await askJson(casePath(id), { signal });
  } catch (error) {
    if (![404, 422].includes(error.status)) throw error;
    throw new Failure("No such case", `${id} is not among the cases that are served here, or it was erased. Choose another image.`);
  }
}

// A query is {id} for a stored case or {file, name} for an upload.
export async function classify(query, options, signal) {
  if (query.id && query.id.split("/")[0] === options.dataset) {
    return askJson("search", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ id: query.id, ...options }),
      signal,
    });
  }
  const form = new FormData();
  form.append("file", query.id ? await pictureOf(query, signal) : query.file, fileName(query));
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  return askJson("classify", { method: "POST", body: form, signal });
}

// A stored case that is compared with another dataset is sent as a picture, under this name.
export const fileName = (query) => (query.id ? `${query.id.replaceAll("/", "-")}.png` : query.name);

async function pictureOf(query, signal) {
  if (!query.case.image) {
    throw new Failure(
      "No picture to send",
      `The image of ${query.id} is not at hand, so it cannot be compared with another dataset. Choose another image.`,
    );
  }
  return (await ask(query.case.image, { signal })).blob();
}

export async function askJson(path, init = {}) {
  return (await ask(path, init)).json();
}

async function ask(path, init) {
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(
      "The service cannot be reached",
      "It may have stopped, or the connection is down. Check both, then try again.",
      true,
    );
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

async function failureOf(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // not one of the service's own answers: a proxy's, say
  }
  const { status } = response;
  const parts = [sentence(problem.detail || `The service answered with status ${status}`)];
  for (const { field, message } of problem.errors ?? []) {
    if (!parts[0].includes(message)) parts.push(sentence(`${field}: ${message}`));
  }
  if (status === 401 || status === 403) parts.push("Reload the page to enter an API key.");
  if (status === 404) parts.push("Choose another image.");
  const again = status === 429 || status >= 500;
  if (again && !/try again/i.test(parts[0])) parts.push(wait(response.headers.get("Retry-After")));
  if (status >= 500 && problem.request_id) parts.push(`If it stays, report request ${problem.request_id}.`);
  return new Failure(problem.title || "No answer", parts.join(" "), again, status);
}

function wait(header) {
  const seconds = Number.parseInt(header, 10);
  if (!(seconds > 0)) return "Try again in a moment.";
  return `Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.`;
}

function sentence(text) {
  const full = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(full) ? full : `${full}.`;
}

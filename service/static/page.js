// The page: which image, compared with what, and the history of both.
import { atSize, drawAnswer, labelNames, make, picture, usual } from "./answer.js";
import { asCurl, asJson, toClipboard } from "./copying.js";
import { askJson, casePath, classify, Failure } from "./requests.js";
import { fillSettings, place, setK, settings, testCases, wrongK } from "./settings.js";

const $ = (id) => document.getElementById(id);
const given = document.querySelector("main").dataset;
const limit = Number(given.uploadLimit);
const PAUSE = 200; // ms without a change before a setting is taken
const KEPT = 20; // chosen files that the history can bring back

const cases = new Map(); // every stored case seen so far, by id
const uploads = new Map(); // chosen files, by the key that history keeps
let query = null; // {id, case} or {file, name, url}
let shown = null; // {answer, query, options} of the result on the page
let running = null; // AbortController of the request under way
let timer = 0;

function checkK() {
  const wrong = wrongK();
  alertIn($("k-alert"), wrong && new Failure("", wrong));
  return !wrong;
}

function settingsChanged() {
  const before = shown?.options.dataset ?? settings().dataset;
  clearTimeout(timer);
  running?.abort();
  if (!checkK()) return setBusy(false);
  timer = setTimeout(() => {
    remember("replaceState");
    if (query) run({ scroll: before !== settings().dataset });
    else setBusy(false);
  }, PAUSE);
}

// History: the settings and a stored case are in the address, an upload is kept while the page is.

function remember(how, deeper = 0) {
  const { dataset, model, res, k, vote } = settings();
  const address = new URLSearchParams({ dataset, model, res, k, vote });
  if (query?.id) address.set("case", query.id);
  const depth = (history.state?.depth ?? 0) + deeper;
  history[how]({ depth, upload: query?.key ?? null }, "", `?${address}`);
  $("back").hidden = depth === 0;
}

function restore() {
  clearTimeout(timer);
  const address = new URLSearchParams(location.search);
  const dataset = $("dataset").value;
  fillSettings(Object.fromEntries(address));
  if (dataset !== $("dataset").value) loadExamples(0);
  if (address.has("k")) setK(address.get("k"));
  const votes = [...$("vote").options].map((option) => option.value);
  if (votes.includes(address.get("vote"))) $("vote").value = address.get("vote");
  $("back").hidden = !history.state?.depth;
  const id = address.get("case");
  const upload = history.state?.upload ?? null;
  query = id ? { id } : (uploads.get(upload) ?? null);
  const valid = checkK();
  if (query && valid) return run({ focus: Boolean(shown) });
  running?.abort();
  setBusy(false);
  clearAlerts();
  show(null);
  if (upload !== null && !query) {
    alertIn($("upload-alert"), new Failure("The image is not kept", "An image you chose is forgotten when the page is reloaded, or after many others. Choose it again."));
  }
  return undefined;
}

// One query

function ask(next, options = {}) {
  const deeper = query ? 1 : 0;
  query = next;
  clearTimeout(timer);
  remember("pushState", deeper);
  if (checkK()) run({ scroll: true, ...options });
}

async function run({ focus = false, scroll = false } = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  const [asked, options] = [query, settings()];
  clearAlerts();
  setBusy(true);
  try {
    if (asked.id) asked.case = await lookUp(asked.id, mine.signal);
    const answer = await classify(asked, options, mine.signal);
    if (mine !== running || mine.signal.aborted) return;
    show({ answer, query: asked, options });
    say(answer);
  } catch (error) {
    if (mine !== running || mine.signal.aborted) return;
    if (!(error instanceof Failure)) throw error;
    show(null);
    alertIn(asked.file && !error.again ? $("upload-alert") : $("answer-alert"), error, asked.name);
    return;
  } finally {
    if (mine === running) setBusy(false);
  }
  if (focus) $("label").focus();
  else if (scroll) bringIntoView($("result"));
}

async function lookUp(id, signal) {
  if (!cases.has(id)) cases.set(id, await askJson(casePath(id), { signal }));
  return cases.get(id);
}

function show(result) {
  shown = result;
  $("result").hidden = !result;
  $("start").hidden = Boolean(result);
  $("copied").textContent = "";
  $("copy-by-hand").hidden = true;
  for (const button of document.querySelectorAll(".example")) {
    markCurrent(button);
  }
  if (!result) return;
  for (const { id, labels, image, licence } of result.answer.neighbours) {
    if (!cases.has(id)) cases.set(id, { id, dataset: result.answer.dataset, labels, image, licence });
  }
  drawAnswer(result.answer, result.query, ({ id }) => ask({ id }, { focus: true }));
}

function say(answer) {
  const familiarity = answer.familiarity ? usual(answer.familiarity.percentile) : "";
  $("status").textContent = `Prediction: ${labelNames(answer.labels)}. ${$("share").textContent} ${familiarity}`;
}

function setBusy(busy) {
  $("answer").setAttribute("aria-busy", String(busy));
}

function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (top < 0 || top > 0.6 * innerHeight) element.scrollIntoView({ block: "start" });
}

function alertIn(where, failure, name = "") {
  where.replaceChildren();
  if (!failure) return;
  const box = make("div", "alert");
  if (name) box.append(make("span", "name", name));
  if (failure.title) box.append(make("strong", "", `${failure.title}.`), " ");
  box.append(failure.message);
  if (failure.again) {
    const again = make("button", "", "Try again");
    again.type = "button";
    again.addEventListener("click", () => run({ focus: true }));
    box.append(" ", again);
  }
  where.append(box);
  box.scrollIntoView({ block: "nearest" });
}

function clearAlerts() {
  for (const id of ["upload-alert", "answer-alert"]) $(id).replaceChildren();
}

// Images: chosen, dropped or pasted, or an example

async function take(files) {
  const [file] = files;
  clearAlerts();
  try {
    const kept = await readFile(file);
    ask(keep(kept, file.name));
    if (files.length > 1) alertIn($("upload-alert"), new Failure("", `Several files were dropped; ${file.name} is the one shown.`));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    alertIn($("upload-alert"), error);
  }
}

function keep(file, name) {
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
async function readFile(file) {
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

async function loadExamples(seed) {
  const { dataset, res } = settings();
  try {
    const count = Math.min(8, testCases(dataset));
    const wanted = new URLSearchParams({ dataset, split: "test", count, seed });
    const found = count ? (await askJson(`cases?${wanted}`)).cases : [];
    if (dataset === settings().dataset) $("examples").replaceChildren(...found.map((one) => exampleOf(one, res)));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    alertIn($("upload-alert"), new Failure(`No examples: ${error.title}`, error.message));
  }
}

function exampleOf(one, res) {
  const button = make("button", "example");
  button.type = "button";
  button.append(picture(one.image && atSize(one.image, res), "", `${one.split}/${one.row}`));
  enliven(button, one);
  const item = make("li");
  item.append(button);
  return item;
}

function enliven(button, one) {
  cases.set(one.id, one);
  button.dataset.id = one.id;
  button.title = one.id;
  button.setAttribute("aria-label", `Example ${one.id}`);
  markCurrent(button);
  button.addEventListener("click", () => ask({ id: one.id }));
}

const markCurrent = (button) =>
  button.setAttribute("aria-current", String(shown?.query.id === button.dataset.id));

// Copying

async function copy(text, what) {
  const copied = await toClipboard(text);
  $("copied").textContent = copied ? `${what} copied` : "";
  $("copy-by-hand").hidden = copied;
  if (copied) return;
  $("copy-text").value = text;
  $("copy-text").focus();
  $("copy-text").select();
}

// Wiring

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

document.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) take([...event.clipboardData.files]);
});
$("ask").addEventListener("submit", (event) => event.preventDefault());
$("file").addEventListener("change", () => {
  const files = [...$("file").files];
  $("file").value = ""; // so that the same file can be chosen again
  if (files.length) take(files);
});
for (const id of ["dataset", "model", "res"]) {
  $(id).addEventListener("change", () => {
    fillSettings(place());
    if (id === "dataset") loadExamples(0);
    settingsChanged();
  });
}
$("vote").addEventListener("change", settingsChanged);
$("k-range").addEventListener("input", () => {
  $("k").value = $("k-range").value;
  settingsChanged();
});
$("k").addEventListener("input", () => {
  if ($("k").checkValidity()) $("k-range").value = $("k").value;
  settingsChanged();
});
$("others").addEventListener("click", () => loadExamples(1 + Math.floor(Math.random() * 1e9)));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // no entry in the history
  $("answer").focus();
});
$("back").addEventListener("click", () => history.back());
$("copy-json").addEventListener("click", () => copy(asJson(shown.answer), "JSON"));
$("copy-curl").addEventListener("click", () => copy(asCurl(shown.query, shown.options, given.keyed === "yes"), "curl command"));
addEventListener("popstate", restore);

document.documentElement.classList.remove("no-script");
for (const button of document.querySelectorAll(".example")) enliven(button, JSON.parse(button.dataset.case));
restore();

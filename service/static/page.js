// The page: which image, compared with what, and the history of both.
import { alertIn, clearAlerts, tellStart } from "./alerts.js";
import { atSize, cautions, drawAnswer, labelNames, make, picture, usual } from "./answer.js";
import { asCurl, asJson, copy } from "./copying.js";
import { askJson, classify, Failure, findCase } from "./requests.js";
import { fillSettings, indexOf, place, settings, takeSettings, testCases, wrongK } from "./settings.js";
import { keep, keptUpload, readFile } from "./uploads.js";

const $ = (id) => document.getElementById(id);
const given = document.querySelector("main").dataset;
const PAUSE = 200; // ms without a change before a setting is taken

const cases = new Map(); // every stored case seen so far, by id
let query = null; // {id, case} or {file, name, url}
let shown = null; // {answer, query, options} of the result on the page
let running = null; // AbortController of the request under way
let timer = 0;
let choices = 0; // images chosen so far: a file that was read too slowly is not the latest
let draws = 0; // requests for examples so far

function checkK(advice = "") {
  const wrong = wrongK();
  alertIn($("k-alert"), wrong && new Failure("", wrong + advice));
  return !wrong;
}

function settingsChanged() {
  const before = shown?.options.dataset ?? settings().dataset;
  clearTimeout(timer);
  running?.abort();
  $("address-alert").replaceChildren();
  if (!checkK()) return waitForK();
  timer = setTimeout(() => {
    remember("replaceState");
    if (query) run({ scroll: before !== settings().dataset });
    else setBusy(false);
  }, PAUSE);
}

function waitForK() {
  setBusy(false);
  if (query) tellStart("No result yet", `${nameOf(query)} is classified once the number of neighbours is right.`);
}

// History: the settings and a stored case are in the address, an upload is kept while the page is.

function remember(how, deeper = 0) {
  const { dataset, model, res, k, vote } = settings();
  const address = new URLSearchParams({ dataset, model, res, k, vote });
  if (query?.id) address.set("case", query.id);
  const depth = (history.state?.depth ?? 0) + deeper;
  const upload = query ? (query.key ?? null) : (history.state?.upload ?? null);
  history[how]({ depth, upload }, "", `?${address}`);
  $("back").hidden = depth === 0;
}

function restore(returning) {
  choices += 1;
  clearTimeout(timer);
  const address = new URLSearchParams(location.search);
  const dataset = $("dataset").value;
  const missing = takeSettings(address);
  if (dataset !== $("dataset").value) loadExamples(0);
  const [id, upload] = [address.get("case"), history.state?.upload ?? null];
  query = id ? { id } : keptUpload(upload);
  clearAlerts();
  alertIn($("address-alert"), missing && new Failure("", missing));
  const valid = checkK();
  if (valid) remember("replaceState");
  $("back").hidden = !history.state?.depth;
  if (query && valid) {
    tellStart("No result yet", `${nameOf(query)} is being classified.`);
    return run({ focus: returning });
  }
  running?.abort();
  setBusy(false);
  show(null);
  if (query) waitForK();
  if (returning) $("start-title").focus();
  if (upload !== null && !query) {
    alertIn($("upload-alert"), new Failure("The image is not kept", "An image you chose is forgotten when the page is reloaded, or after many others. Choose it again."));
  }
  return undefined;
}

// One query

// Returns whether the image is taken.
function ask(next, options = {}) {
  if (!checkK(" Mend this, then choose the image again.")) {
    $("k").focus();
    $("k-alert").scrollIntoView({ block: "nearest" });
    return false;
  }
  choices += 1;
  const deeper = query ? 1 : 0;
  query = next;
  clearTimeout(timer);
  $("address-alert").replaceChildren();
  remember("pushState", deeper);
  run({ scroll: true, ...options });
  return true;
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
  } catch (error) {
    if (mine !== running || mine.signal.aborted) return;
    if (!(error instanceof Failure)) throw error;
    fail(asked, error, focus);
    return;
  } finally {
    if (mine === running) setBusy(false);
  }
  if (focus) $("label").focus();
  else if (scroll) bringIntoView($("result"));
}

// What had the focus may be gone with the result; the message has it then.
function fail(asked, failure, focus) {
  const taken = focus || $("result").contains(document.activeElement);
  show(null);
  tellStart("No result", `${nameOf(asked)} was not classified; the message says why.`);
  const where = asked.file && !failure.again ? "upload-alert" : "answer-alert";
  const box = alertIn($(where), failure, asked.name, tryAgain);
  if (taken) (box.querySelector("button") ?? box).focus();
}

function tryAgain() {
  $("answer").focus({ preventScroll: true }); // the button goes
  run({ focus: true });
}

async function lookUp(id, signal) {
  if (!cases.has(id)) cases.set(id, await findCase(id, signal));
  return cases.get(id);
}

const nameOf = (one) => one.id ?? one.name;

function show(result) {
  shown = result;
  $("result").hidden = !result;
  $("start").hidden = Boolean(result);
  $("copied").textContent = "";
  $("copy-by-hand").hidden = true;
  for (const button of document.querySelectorAll(".example")) {
    markCurrent(button);
  }
  if (!result) {
    $("status").textContent = "";
    tellStart("No image yet");
    return;
  }
  for (const { id, labels, image, licence } of result.answer.neighbours) {
    if (!cases.has(id)) cases.set(id, { id, dataset: result.answer.dataset, labels, image, licence });
  }
  const warnings = cautions(result.answer, result.query, indexOf(result.options));
  drawAnswer(result.answer, result.query, warnings, ({ id }) => ask({ id }, { focus: true }));
  say(result.answer, warnings);
}

function say(answer, warnings) {
  const familiarity = answer.familiarity ? usual(answer.familiarity.percentile) : "";
  $("status").textContent = `Prediction: ${labelNames(answer.labels)}. ${$("share").textContent} ${familiarity} ${warnings.flat().join(" ")}`.trim();
}

function setBusy(busy) {
  $("answer").setAttribute("aria-busy", String(busy));
}

function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (top < 0 || top > 0.6 * innerHeight) element.scrollIntoView({ block: "start" });
}

// Images: chosen, dropped or pasted, or an example

async function take(files) {
  const [file] = files;
  const mine = (choices += 1);
  $("upload-alert").replaceChildren();
  try {
    const kept = await readFile(file);
    if (mine !== choices) return;
    const taken = ask(keep(kept, file.name));
    if (taken && files.length > 1) alertIn($("upload-alert"), new Failure("", `Several files were dropped; ${file.name} is the one shown.`));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (mine === choices) alertIn($("upload-alert"), error);
  }
}

async function loadExamples(seed) {
  const { dataset, res } = settings();
  const mine = (draws += 1);
  try {
    const count = Math.min(8, testCases(dataset));
    const wanted = new URLSearchParams({ dataset, split: "test", count, seed });
    const found = count ? (await askJson(`cases?${wanted}`)).cases : [];
    if (mine === draws) $("examples").replaceChildren(...found.map((one) => exampleOf(one, res)));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (mine === draws) alertIn($("upload-alert"), new Failure(`No examples: ${error.title}`, error.message));
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
    const { vote } = settings();
    fillSettings(place());
    if (id === "dataset") loadExamples(0);
    settingsChanged();
    if (vote !== settings().vote) alertIn($("address-alert"), new Failure("", `There is no linear probe here; the vote is ${settings().vote} instead.`));
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
addEventListener("popstate", () => restore(true));

document.documentElement.classList.remove("no-script");
for (const button of document.querySelectorAll(".example")) enliven(button, JSON.parse(button.dataset.case));
restore(false);

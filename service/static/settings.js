// What an image is compared with: the controls and what is served.

import { caution, unknownTo, UNTRAINED } from "./answer.js";

const $ = (id) => document.getElementById(id);
const { indexes } = JSON.parse(document.querySelector("main").dataset.indexes);

const DEFAULT_K = 11;

const PROBE = new Option("linear probe: no vote", "probe");

// MedMNIST cut these otherwise than the service cuts an upload.
const FRAMING = {
  bloodmnist: "one cell, in the middle 200 × 200 px of a 360 × 363 px photograph",
  dermamnist: "the whole 4 : 3 photograph, squeezed to a square and not cut",
};

const unique = (values) => [...new Set(values.map(String))];

function fill(select, values, chosen, name = String) {
  select.replaceChildren(...values.map((value) => new Option(name(value), value)));
  select.value = values.includes(chosen) ? chosen : (values[0] ?? "");
}

// Offer what is served, keeping of ``wanted`` (texts) what can be kept.
export function fillSettings(wanted) {
  fill($("dataset"), unique(indexes.map((index) => index.dataset)), wanted.dataset);
  const ofDataset = indexes.filter((index) => index.dataset === $("dataset").value);
  fill($("model"), unique(ofDataset.map((index) => index.model)), wanted.model, (model) => (ofDataset.some((one) => one.model === model && one.untrained) ? `${model}, untrained` : model));
  const ofModel = ofDataset.filter((index) => index.model === $("model").value);
  fill($("res"), unique(ofModel.map((index) => index.res)), wanted.res, (res) => `${res} × ${res} px`);
  const index = ofModel.find((one) => String(one.res) === $("res").value);
  if (!index) return;
  for (const id of ["k", "k-range"]) $(id).max = Math.min(100, index.cases);
  offerProbe(Boolean(index.probe));
  describe(index);
}

function offerProbe(offered) {
  if (offered === PROBE.isConnected) return;
  PROBE.selected = false; // or it would come back as the choice
  if (offered) $("vote").append(PROBE);
  else PROBE.remove();
}

// Takes what an address asks for, by default the first of each. Says what of it is not to be had.
export function takeSettings(address) {
  fillSettings(Object.fromEntries(address));
  const votes = [...$("vote").options].map((option) => option.value);
  $("vote").value = votes.includes(address.get("vote")) ? address.get("vote") : votes[0];
  setK(address.get("k") ?? Math.min(DEFAULT_K, $("k").max));
  return Object.entries({ dataset: "dataset", model: "model", res: "size", vote: "vote" })
    .filter(([id]) => address.has(id) && address.get(id) !== $(id).value)
    .map(([id, name]) => `There is no ${name} “${address.get(id)}” here; ${$(id).value} is taken instead.`)
    .join(" ");
}

function describe(index) {
  $("about-index").textContent =
    `${index.cases.toLocaleString("en")} training cases, ${index.classes.length} ` +
    `${index.task === "multi-label" ? "labels" : "classes"}; ${accuracyOf(index)}${probeOf(index)}.`;
  $("untrained").replaceChildren(...(index.untrained ? [caution(...UNTRAINED)] : []));
  const framing = FRAMING[index.dataset];
  $("framing").textContent = framing ? `Frame it as the examples are: ${framing}.` : "";
  $("framing").hidden = !framing;
}

function accuracyOf({ accuracy: [record], added, erased }) {
  if (!record) return "no accuracy on record";
  const changed = added + erased > 0 ? `, of the cases as embedded: ${added} added and ${erased} erased since` : "";
  return `accuracy on record ${(100 * record.value).toFixed(2)} % (k = ${record.k}, ${record.vote})${changed}`;
}

function probeOf({ probe }) {
  if (!probe) return "";
  const share = probe.accuracy ? `${(100 * probe.accuracy.value).toFixed(2)} %` : "not on record";
  return `; accuracy of the linear probe ${share}${probe.changes_since ? `, ${unknownTo(probe)}` : ""}`;
}

export const place = () => ({ dataset: $("dataset").value, model: $("model").value, res: $("res").value });

export const settings = () => ({
  ...place(),
  res: Number($("res").value),
  k: Number($("k").value),
  vote: $("vote").value,
});

export const indexOf = ({ dataset, model, res }) =>
  indexes.find((one) => one.dataset === dataset && one.model === model && one.res === res);

// How many examples there are to draw from.
export const testCases = (dataset) => indexes.find((index) => index.dataset === dataset)?.test_cases ?? 0;

function setK(k) {
  $("k").value = $("k-range").value = k;
}

// What is wrong with the number of neighbours, in words; empty where nothing is.
export function wrongK() {
  const valid = $("k").checkValidity();
  $("k").setAttribute("aria-invalid", String(!valid));
  return valid ? "" : `Neighbours go from 1 to ${$("k").max}, in whole numbers.`;
}

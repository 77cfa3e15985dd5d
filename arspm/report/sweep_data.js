// The results, and what is fetched only while it is looked at: learning curves, and the records of selected trials.

let results = JSON.parse(document.getElementById("results").textContent);
let curves = JSON.parse(document.getElementById("curves").textContent);
const embedded = JSON.parse(document.getElementById("pictures").textContent); // reference -> data URI
let unreadable = false; // whether the last request failed
const records = new Map(); // trial number -> its record, with all its epochs

const trialOf = (trialNumber) => results.trials.find((trial) => trial.number === trialNumber);
const curveOf = (trial) => curves.trials[trial.number] ?? { epochs: [], values: [], at_best: {} };
const bestEpoch = (trial) => curveOf(trial).at_best;
const epochsDone = (trial) => trial.num_epochs;

/** Return a trial's learning curve as pairs of epoch and value: of its record if that has more points. */
function pointsOf(trial, metric) {
  const { epochs, values } = curveOf(trial);
  const all = records.get(trial.number)?.epochs ?? [];
  if (all.length <= epochs.length) return epochs.map((epoch, k) => [epoch, values[k]]);
  return all.filter((epoch) => typeof epoch[metric] === "number").map((epoch) => [epoch.epoch, epoch[metric]]);
}

/** Fetch the curves, unless the page has those of its results. */
async function loadCurves() {
  if (SERVED && curves.updated < results.updated) curves = await fetchJson("curves.json.gz");
}

/** Fetch the records of trials, unless the page has all their epochs; return how many were fetched. */
async function loadRecords(trialNumbers) {
  const missing = trialNumbers.filter((each) => (records.get(each)?.epochs?.at(-1)?.epoch ?? 0) < (trialOf(each)?.num_epochs ?? 0));
  await Promise.all(missing.map(async (each) => records.set(each, await fetchJson(`trials/${String(each).padStart(5, "0")}.json`))));
  return missing.length;
}

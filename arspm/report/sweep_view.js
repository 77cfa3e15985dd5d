// What the user has chosen on the page. It is kept in the URL's fragment: a link shares it, and the back button undoes it.
//
// A fragment works for files, signed URLs and `arspm dashboard`, and no server sees it. Whatever it contains that is not a
// choice of this page is ignored.

const NUM_ROWS = matchMedia("(max-width: 700px)").matches ? 20 : 100; // shown initially and with each "show more": 1,000 rows are slow to lay out
const MAX_SELECTED = 6;

const text = (fallback = "") => ({ fallback, read: String, write: String });
const flag = (fallback = false) => ({ fallback, read: (written) => written === "1", write: (value) => (value ? "1" : "0") });
const oneOf = (...values) => ({ fallback: values[0], read: (written) => values.find((each) => String(each) === written), write: String });
const trialNumber = { fallback: null, read: (written) => (/^\d{1,9}$/.test(written) ? Number(written) : undefined), write: String };
const trialNumbers = {
  fallback: [], write: (value) => value.join(","),
  read: (written) => [...new Set(written.split(",").filter((each) => /^\d{1,9}$/.test(each)).map(Number))].slice(0, MAX_SELECTED),
};
const json = (fallback, isValid) => ({
  fallback, write: JSON.stringify,
  read: (written) => { const value = JSON.parse(written); return isValid(value) ? value : undefined; },
});
const isRange = (value) => Array.isArray(value) && value.length === 2 && value.every(Number.isFinite);
const isRanges = (value) => value?.constructor === Object && Object.values(value).every(isRange);
const isTexts = (value) => Array.isArray(value) && value.every((each) => typeof each === "string");

/** The choices that the URL keeps, by their names there. */
const CHOICES = {
  at: text(), // the section that was last linked to
  filter: text(),
  state: oneOf("", ...STATES),
  sort: text("best"),
  descending: flag(results.sweep.mode === "max"),
  columns: json([], isTexts), // further metrics in the table
  brushes: json({}, isRanges), // dimension -> its range, see sweep_filter.js
  selected: trialNumbers,
  trial: trialNumber, // whose configuration and log are shown
  logEpochs: flag(),
  logMetric: flag(),
  smoothing: oneOf(0, 0.5, 0.8, 0.9, 0.97),
  top: oneOf(0, 1, 5, 10, 25, 100), // 0: all trials
  group: text(),
  historyBy: oneOf("number", "time"),
  contourX: text(),
  contourY: text(),
  sweeps: json([], isTexts), // other sweeps beside this one
};

const view = { numRows: NUM_ROWS };
readView();

/** Set the view from the URL. */
function readView() {
  const written = new URLSearchParams(location.hash.slice(1));
  for (const [name, { fallback, read }] of Object.entries(CHOICES)) {
    let value;
    try { value = written.has(name) ? read(written.get(name)) : undefined; } catch { /* not JSON */ }
    view[name] = value ?? structuredClone(fallback);
  }
}

/** Return the fragment for the view; choices that have their default are left out. */
function fragment() {
  const written = new URLSearchParams();
  for (const [name, { fallback, write }] of Object.entries(CHOICES)) {
    if (view[name] !== null && write(view[name]) !== (fallback === null ? "" : write(fallback))) written.set(name, write(view[name]));
  }
  return `#${written}`;
}

/** Change the view and the URL. typing: the change is one of many, which the back button undoes together. */
function choose(changes, { typing = false } = {}) {
  const before = fragment();
  Object.assign(view, changes);
  const after = fragment();
  if (after === before) return;
  const last = history.state?.typing;
  const keys = Object.keys(changes).join();
  if (typing && last === keys) history.replaceState({ typing: keys }, "", after);
  else history.pushState(typing ? { typing: keys } : null, "", after);
}

/** Call `show` after the back button, and after a link to a section, whose name joins the other choices in the URL. */
function followUrl(show) {
  const scroll = () => document.getElementById(view.at)?.scrollIntoView();
  addEventListener("popstate", () => {
    const linked = location.hash.slice(1);
    if (document.getElementById(linked)) {
      view.at = linked; // the browser has scrolled there
      history.replaceState(null, "", fragment());
      return;
    }
    const before = view.at;
    readView();
    show();
    if (view.at !== before) scroll();
  });
  if (document.getElementById(location.hash.slice(1))) view.at = location.hash.slice(1);
  else scroll();
}

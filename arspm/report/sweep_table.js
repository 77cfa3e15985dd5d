// The table of trials.

let columns = [];
const rows = new Map(); // trial number -> its row, reused so that focus and check boxes survive updates

/** Return the columns: name, label, title, `value` (for sorting) and `text` (for display). */
function columnsOf() {
  const { metric, space } = results.sweep;
  const names = shortNames(Object.keys(space));
  const sampled = Object.keys(space).map((dimension) => ({
    name: `sample ${dimension}`, label: names[dimension], title: dimension, isText: space[dimension].kind === "choice" && dimension !== "seed",
    text: (trial) => formatSetting(trial.sample[dimension]), value: (trial) => trial.sample[dimension] ?? null,
  }));
  return [
    { name: "number", label: "Trial", isText: true, value: (trial) => trial.number },
    ...sampled,
    { name: "state", label: "State", isText: true, value: (trial) => `${trial.state} ${trial.reason}` },
    {
      name: "best", label: `Best ${isDegrees(metric) ? "°" : "value"}`, title: metricName(metric),
      text: (trial) => formatMetric(trial.best, metric).replace("°", ""), value: (trial) => trial.best,
    },
    { name: "best_epoch", label: "Best epoch", text: (trial) => formatSetting(trial.best_epoch), value: (trial) => trial.best_epoch },
    { name: "epochs", label: "Epochs", text: (trial) => formatCount(epochsDone(trial)), value: epochsDone },
    { name: "seconds", label: "Time", text: (trial) => formatDuration(trial.seconds), value: (trial) => trial.seconds },
    ...view.columns.map((figure) => ({
      name: `figure ${figure}`, label: metricName(figure), title: `${metricName(figure)} at the best epoch`,
      text: (trial) => formatMetric(bestEpoch(trial)[figure], figure), value: (trial) => bestEpoch(trial)[figure] ?? null,
    })),
  ];
}

/** Return the names of all metrics that some trial has at its best epoch, except those that the table always shows. */
function furtherMetrics() {
  const known = new Set(results.trials.flatMap((trial) => Object.keys(bestEpoch(trial))));
  return [...known].filter((name) => !["epoch", "seconds", results.sweep.metric].includes(name));
}

/** Show the metrics that can be columns, and fill those that are. */
function updateColumns() {
  const names = [...new Set([...furtherMetrics(), ...view.columns])];
  const list = byId("column-choices"), shown = JSON.stringify(names);
  if (list.dataset.shown !== shown) {
    list.replaceChildren(...names.map((name) => make("label", {}, make("input", { type: "checkbox", value: name, onchange: chooseColumns }), metricName(name))));
    list.dataset.shown = shown;
  }
  for (const box of list.querySelectorAll("input")) box.checked = view.columns.includes(box.value);
  if (view.columns.length) refillTable();
}

function chooseColumns() {
  choose({ columns: [...byId("column-choices").querySelectorAll("input:checked")].map((box) => box.value) });
  buildTable();
  updateTable();
  updateComparison();
  loadDetails();
}

function refillTable() {
  for (const [trialNumber, tr] of rows) fillRow(tr, trialOf(trialNumber));
  updateTable();
}

function buildTable() {
  columns = columnsOf();
  const header = columns.map(({ name, label, title, isText }) => make("th", { scope: "col", role: "columnheader", class: isText ? "text" : "", "data-column": name },
    make("button", { type: "button", title: title ?? label, onclick: () => sortBy(name) }, label)));
  byId("trial-table").tHead.replaceChildren(row(...header));
  showOptions(byId("sort-by"), columns.map(({ name, label, title }) => [name, title ?? label]), view.sort);
  rows.clear();
}

function sortBy(name, descending) {
  choose({ sort: name, descending: descending ?? (view.sort === name ? !view.descending : name === "best" && results.sweep.mode === "max") });
  updateTable();
}

const collator = new Intl.Collator("en", { numeric: true });

/** Return a comparator of trials by a column; trials without a value come last in both directions. */
function byColumn({ value }, descending) {
  const sign = descending ? -1 : 1;
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.number - b.number;
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : collator.compare(x, y)) || a.number - b.number;
  };
}

/** Return the text that the filter searches. */
function searchText(trial) {
  const pairs = [...Object.entries(trial.sample), ...Object.entries(trial.changes ?? {})].map(([name, value]) => `${name}=${value} ${value}`);
  const tags = [trial.number === results.best ? "best" : "", trial.is_paper ? "paper" : ""];
  const texts = columns.map((column) => column.text?.(trial) ?? "");
  return [`trial ${trial.number}`, trial.state, trial.reason, ...tags, ...pairs, ...texts].join(" ").toLowerCase();
}

function fillRow(tr, trial) {
  const tags = [trial.number === results.best ? "best" : "", trial.is_paper ? "paper" : ""].filter(Boolean);
  tr.cells[0].lastChild.replaceChildren(...tags.map((tag) => make("span", { class: "tag" }, tag)));
  tr.classList.toggle("own", trial.number === results.best);
  columns.forEach(({ name, text }, k) => {
    if (text) tr.cells[k].textContent = text(trial);
    if (name === "state") {
      const state = make("span", { class: "state" }, make("i", { class: `in-${trial.state}` }), STATE_WORDS[trial.state] ?? trial.state);
      tr.cells[k].replaceChildren(state, make("span", { class: "about reason" }, trial.reason));
    }
  });
}

function rowOf(trial) {
  if (!rows.has(trial.number)) {
    const box = make("input", { type: "checkbox", "aria-label": `Compare trial ${trial.number}`, onchange: (event) => select(trial.number, event.target.checked) });
    const open = make("button", { type: "button", class: "open", "aria-label": `Open trial ${trial.number}`, onclick: () => openTrial(trial.number) }, "open");
    const tr = row(heading(make("label", {}, box, make("span", {}, String(trial.number))), open, make("span", { class: "tags" })));
    for (const { label, isText } of columns.slice(1)) tr.append(isText ? textCell(label) : cell(label));
    rows.set(trial.number, tr);
    fillRow(tr, trial);
  }
  return rows.get(trial.number);
}

function updateTable() {
  const column = columns.find(({ name }) => name === view.sort) ?? columns.find(({ name }) => name === "best");
  const matching = [...shownResults().trials].sort(byColumn(column, view.descending));
  const shown = matching.slice(0, view.numRows);
  const body = byId("trial-table").tBodies[0], shownRows = shown.map(rowOf);
  if (shownRows.length !== body.rows.length || shownRows.some((tr, k) => tr !== body.rows[k])) {
    const focused = document.activeElement; // moving a row removes its focus
    body.replaceChildren(...shownRows);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  }
  for (const th of byId("trial-table").tHead.querySelectorAll("th")) {
    if (th.dataset.column === column.name) th.setAttribute("aria-sort", view.descending ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
  byId("sort-by").value = column.name;
  const all = results.trials.length;
  const numMatching = matching.length === all ? "" : `, ${formatCount(matching.length)} match`;
  setText(byId("num-shown"), !all ? "No trial has started." : matching.length ? `${formatCount(shown.length)} of ${formatCount(all)} trials${numMatching}.` : "No trial matches.");
  setText(byId("show-more"), shown.length < matching.length ? `Show ${Math.min(NUM_ROWS, matching.length - shown.length)} more` : "");
}

function updateStateFilter() {
  const present = STATES.filter((state) => state === view.state || results.trials.some((trial) => trial.state === state));
  const numberIn = (state) => results.trials.filter((trial) => trial.state === state).length;
  const options = [["", "all"], ...present.map((state) => [state, `${STATE_WORDS[state]} (${numberIn(state)})`])];
  showOptions(byId("state-filter"), options, view.state);
}

// The table of trials, the comparison of selected trials, and portraits.

// --- table of trials

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
  ];
}

function buildTable() {
  columns = columnsOf();
  const header = columns.map(({ name, label, title, isText }) => make("th", { scope: "col", role: "columnheader", class: isText ? "text" : "", "data-column": name },
    make("button", { type: "button", title: title ?? label, onclick: () => sortBy(name) }, label)));
  byId("trial-table").tHead.replaceChildren(row(...header));
  byId("sort-by").replaceChildren(...columns.map(({ name, label, title }) => make("option", { value: name }, title ?? label)));
  rows.clear();
}

function sortBy(name, descending) {
  view.descending = descending ?? (view.sort === name ? !view.descending : name === "best" && results.sweep.mode === "max");
  view.sort = name;
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
    const tr = row(heading(make("label", {}, box, make("span", {}, String(trial.number))), make("span", { class: "tags" })));
    for (const { label, isText } of columns.slice(1)) tr.append(isText ? textCell(label) : cell(label));
    rows.set(trial.number, tr);
    fillRow(tr, trial);
  }
  return rows.get(trial.number);
}

function updateTable() {
  const column = columns.find(({ name }) => name === view.sort);
  const matching = results.trials
    .filter((trial) => !view.state || trial.state === view.state)
    .filter((trial) => !view.words.length || view.words.every((word) => searchText(trial).includes(word)))
    .sort(byColumn(column, view.descending));
  const shown = matching.slice(0, view.numRows);
  const body = byId("trial-table").tBodies[0], shownRows = shown.map(rowOf);
  if (shownRows.length !== body.rows.length || shownRows.some((tr, k) => tr !== body.rows[k])) {
    const focused = document.activeElement; // moving a row removes its focus
    body.replaceChildren(...shownRows);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  }
  for (const th of byId("trial-table").tHead.querySelectorAll("th")) {
    if (th.dataset.column === view.sort) th.setAttribute("aria-sort", view.descending ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  }
  byId("sort-by").value = view.sort;
  const all = results.trials.length;
  const numMatching = matching.length === all ? "" : `, ${formatCount(matching.length)} match`;
  setText(byId("num-shown"), !all ? "No trial has started." : matching.length ? `${formatCount(shown.length)} of ${formatCount(all)} trials${numMatching}.` : "No trial matches.");
  setText(byId("show-more"), shown.length < matching.length ? `Show ${Math.min(NUM_ROWS, matching.length - shown.length)} more` : "");
}

function updateStateFilter() {
  const present = STATES.filter((state) => state === view.state || results.trials.some((trial) => trial.state === state));
  const numberIn = (state) => results.trials.filter((trial) => trial.state === state).length;
  const options = [["", "all"], ...present.map((state) => [state, `${STATE_WORDS[state]} (${numberIn(state)})`])];
  byId("state-filter").replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  byId("state-filter").value = view.state;
}

// --- comparison

function select(trialNumber, isSelected) {
  view.selected = view.selected.filter((each) => each !== trialNumber);
  if (isSelected) view.selected.push(trialNumber);
  updateComparison();
  loadDetails();
}

function updateComparison() {
  const trials = view.selected.map(trialOf).filter(Boolean);
  for (const [trialNumber, tr] of rows) {
    const box = tr.querySelector("input");
    box.checked = view.selected.includes(trialNumber);
    box.disabled = !box.checked && trials.length >= MAX_SELECTED;
  }
  byId("nothing-selected").hidden = trials.length > 0;
  byId("compared").hidden = !trials.length;
  if (!trials.length) return;
  const { metric, space } = results.sweep;
  const table = byId("comparison-table");
  const swatch = (k) => make("i", { class: "swatch", style: `background: var(${SELECTED_COLOURS[k]})` });
  const heads = trials.map((trial, k) => make("th", { scope: "col" }, swatch(k), `Trial ${trial.number}`));
  table.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col", class: "text" }, ""), ...heads));
  const line = (name, texts, isSet) => {
    const differs = isSet && new Set(texts).size > 1;
    const hint = differs ? [make("span", { class: "sr" }, " differs")] : [];
    return make("tr", differs ? { class: "differs" } : {}, make("th", { scope: "row" }, name, ...hint), ...texts.map((text) => make("td", {}, text)));
  };
  const names = shortNames(Object.keys(space));
  const figures = [...new Set(trials.flatMap((trial) => Object.keys(bestEpoch(trial))))].filter((name) => !["epoch", "seconds", metric].includes(name));
  table.tBodies[0].replaceChildren(
    ...Object.keys(space).map((name) => line(names[name], trials.map((trial) => formatSetting(trial.sample[name])), true)),
    line("State", trials.map((trial) => STATE_WORDS[trial.state] ?? trial.state)),
    line(`Best ${metricName(metric)}`, trials.map((trial) => formatMetric(trial.best, metric))),
    line("Best epoch", trials.map((trial) => formatSetting(trial.best_epoch))),
    line("Epochs", trials.map((trial) => formatCount(epochsDone(trial)))),
    line("Time", trials.map((trial) => formatDuration(trial.seconds))),
    ...figures.map((name) => line(metricName(name), trials.map((trial) => formatMetric(bestEpoch(trial)[name], name)))),
  );
  showChart(byId("chart-selected"), comparisonChart(results, trials), "None of the selected trials has finished an epoch.");
  const pictured = trials.filter((trial) => results.pictures.trials[trial.number]);
  byId("selected-portraits").replaceChildren(...(pictured.length && results.pictures.real ? [realStrip()] : []), ...pictured.map(strip));
}

// --- portraits

/** Return an image; one that is not in the page is loaded when it is scrolled near. */
function picture(reference, alt) {
  if (reference in embedded) return make("img", { src: embedded[reference], alt });
  return make("img", { loading: "lazy", src: reference, alt }); // `loading` comes first: `src` starts loading
}

function realStrip() {
  const alt = `Real faces of ${results.sweep.clips.join(", ")}`;
  return make("figure", { class: "real" }, make("figcaption", {}, make("b", {}, "Real faces")), picture(results.pictures.real, alt));
}

function strip(trial) {
  const values = Object.entries(trial.sample).map(([name, value]) => `${shortName(name)} ${formatSetting(value)}`).join(", ");
  const caption = make("figcaption", {}, make("b", {}, `Trial ${trial.number}`), ` ${formatMetric(trial.best, results.sweep.metric)}`, make("span", { class: "about" }, values));
  return make("figure", {}, caption, picture(results.pictures.trials[trial.number], `Portraits by trial ${trial.number}`));
}

function updatePortraits() {
  const { real, trials } = results.pictures;
  const { clips } = results.sweep;
  const pictured = ranked(results).filter((trial) => trials[trial.number]);
  const speakers = clips.length === 1 ? "validation speaker" : `${clips.length} validation speakers`;
  const shownOf = pictured.length < ranked(results).length ? `, ${pictured.length} of ${formatCount(ranked(results).length)}` : "";
  setText(byId("portraits-summary"), pictured.length
    ? `The same ${speakers} for every trial, at its best epoch; best trial first${shownOf}.`
    : "No portraits yet.");
  const faces = byId("faces-of-trials");
  const shown = JSON.stringify([real, pictured.map((trial) => [trials[trial.number], trial.best])]);
  if (faces.dataset.shown !== shown) faces.replaceChildren(...(real ? [realStrip()] : []), ...pictured.map(strip)); // otherwise each update would load them again
  faces.dataset.shown = shown;
  byId("clips").replaceChildren(...clips.map((clip) => make("li", { class: "clip" }, clip)));
}

// Draws the charts, and draws them again when a filter, an axis or the width changes. Everything is in the page.
const figures = JSON.parse(document.getElementById("charts").textContent);
const config = JSON.parse(document.getElementById("config").textContent);
config.legend.disable = true;
const options = { actions: false, renderer: "svg", ast: true, config, tooltip: { disableDefaultStyle: true } };
const chosen = {};

function wanted(row) {
  return Object.entries(chosen).every(([name, value]) => {
    if (typeof row[name] !== "string") return true; // a number is a place on an axis, not a name
    if (name === "seed") return row.seed === "" || row.seed === (value || "all");
    return !value || String(row[name]) === value;
  });
}

async function draw(figure) {
  const { panels } = figures[figure.dataset.figure];
  const select = figure.querySelector("[data-axis]");
  let shown = 0;
  for (const place of figure.querySelectorAll("[data-panel]")) {
    const panel = panels[place.dataset.panel];
    const rows = panel.rows.filter(wanted);
    place.classList.toggle("hidden", !rows.length);
    if (!rows.length) continue;
    shown += 1;
    const axis = select ? select.value : Object.keys(panel.charts)[0];
    const spec = { ...panel.charts[axis] };
    spec.datasets = { ...spec.datasets, [panel.data]: rows };
    await window.vegaEmbed(place.querySelector(".chart"), spec, options);
  }
  figure.classList.toggle("hidden", !shown);
}

const all = [...document.querySelectorAll("[data-figure]")];
async function drawAll() {
  document.body.dataset.drawn = "";
  for (const figure of all) await draw(figure);
  document.body.dataset.drawn = "yes";
}

for (const select of document.querySelectorAll("[data-filter]")) {
  chosen[select.dataset.filter] = select.value;
  select.addEventListener("change", () => { chosen[select.dataset.filter] = select.value; drawAll(); });
}
if (!("seed" in chosen)) chosen.seed = "";
for (const select of document.querySelectorAll("[data-axis]")) {
  select.addEventListener("change", () => draw(select.closest("[data-figure]")));
}
await drawAll();

"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const hidden = new Set();
  // Only what stays in the page: one of Plotly's own buttons would send the chart to its maker's server.
  const quietConfig = { responsive: true, displaylogo: false, displayModeBar: false, showSendToCloud: false, plotlyServerURL: "" };
  const config = { ...quietConfig, displayModeBar: "hover", modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]] };
  const isTouched = matchMedia("(pointer: coarse)").matches;
  const by = (selector) => [...document.querySelectorAll(selector)];
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // --- charts: data and layout come from the page; what the reader chooses and the theme are put over them

  const themed = (layout) => {
    const [ink, quiet, line, ground, raised] = ["--ink", "--quiet", "--line", "--ground", "--raised"].map(colour);
    const axis = (own) => ({ ...own, gridcolor: line, linecolor: line, tickcolor: line, color: quiet, zerolinecolor: line });
    return {
      ...layout,
      font: { family: "system-ui, sans-serif", size: 13, color: ink },
      hoverlabel: { bgcolor: raised, bordercolor: line, font: { color: ink }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink },
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
      shapes: (layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: quiet } })),
      annotations: (layout.annotations || []).map((note) => ({ ...note, bgcolor: ground, font: { color: ink, size: 12 }, opacity: 0.9 })),
    };
  };

  const visible = (trace) => !hidden.has(trace.meta.run);

  // A mean that weighs a value less by the factor for every value after it; what is no number leaves it as it was.
  const smooth = (values, factor) => {
    let sum = 0, weight = 0;
    return values.map((value) => {
      if (value === null || value === undefined) return null;
      sum = factor * sum + (1 - factor) * value;
      weight = factor * weight + (1 - factor);
      return sum / weight;
    });
  };

  const overAxis = (trace, axis) => ({ ...trace, x: trace.customdata.map((row) => row[axis]) });

  const plot = (target, traces, layout, how) => {
    target.style.height = `${layout.height}px`;
    Plotly.react(target, traces, layout, how);
  };

  const AXES = ["step", "tokens", "seconds of work"];
  const chosen = (name) => by(`select[data-chart="${name}"]`)[0];

  const drawCurves = (name) => {
    const target = document.getElementById(`chart-${name}`);
    if (!target) return;
    const figure = figures[name][chosen(name).value];
    const axis = Number(document.getElementById("axis").value);
    const factor = name === "train" ? Number(document.getElementById("smoothing").value) : 0;
    const traces = [];
    for (const trace of figure.data.filter(visible).map((one) => overAxis(one, axis))) {
      const isFaint = factor > 0 && trace.y.length > 1;
      if (isFaint) traces.push({ ...trace, opacity: 0.25, hoverinfo: "skip", hovertemplate: undefined, line: { ...trace.line, width: 1, dash: "solid" } });
      traces.push(isFaint ? { ...trace, y: smooth(trace.y, factor) } : trace);
    }
    const layout = themed(figure.layout);
    layout.xaxis.title = { text: AXES[axis] };
    if (isTouched) layout.dragmode = false; // a finger on a chart scrolls the page
    if (document.getElementById("logarithmic").checked) layout.yaxis.type = "log";
    plot(target, traces, layout, config);
  };

  const drawOne = (target, figure) => {
    if (!target || !figure) return;
    const traces = figure.data.map((trace) => (visible(trace) ? trace : { ...trace, visible: false }));
    plot(target, traces, { ...themed(figure.layout), dragmode: false }, quietConfig);
  };

  const draw = () => {
    ["train", "measured"].forEach(drawCurves);
    drawOne(document.getElementById("chart-parallel"), figures.parallel);
    by("[data-scatter]").forEach((target) => drawOne(target, figures.scatter[target.dataset.scatter]));
  };

  by("select[data-chart]").forEach((select) => select.addEventListener("change", () => drawCurves(select.dataset.chart)));
  const smoothing = document.getElementById("smoothing");
  if (smoothing) {
    smoothing.addEventListener("input", () => {
      document.getElementById("smoothing-value").textContent = smoothing.value;
      drawCurves("train");
    });
    ["axis", "logarithmic"].forEach((name) =>
      document.getElementById(name).addEventListener("change", () => ["train", "measured"].forEach(drawCurves)));
  }

  // --- which runs are shown

  const show = (run, isShown) => {
    if (isShown) hidden.delete(run);
    else hidden.add(run);
    by(`[data-switch="${run}"]`).forEach((box) => { box.checked = isShown; });
    by(`.chip[data-run="${run}"]`).forEach((chip) => chip.classList.toggle("off", !isShown));
  };
  const boxes = by("[data-switch]");
  boxes.forEach((box) => box.addEventListener("change", () => { show(Number(box.dataset.switch), box.checked); draw(); }));
  const order = boxes.map((box) => Number(box.dataset.switch)); // as the page was written: the best first
  by("[data-show]").forEach((button) => button.addEventListener("click", () => {
    const count = { all: order.length, best: 5, none: 0 }[button.dataset.show];
    order.forEach((run, place) => show(run, place < count));
    draw();
  }));

  // --- tables

  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };
  by("th button.sort").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const column = [...head.parentNode.children].indexOf(head);
    const isDown = head.getAttribute("aria-sort") === "ascending";
    [...head.parentNode.children].forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === ""); // what is missing stays last
      return compare(value(a), value(b)) * (isDown ? -1 : 1);
    });
    body.append(...rows);
  }));

  // --- copying, theme

  by("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    getSelection().selectAllChildren(source);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = "selected: Ctrl-C"; // a browser that lets no file do it
    }
  }));

  const toggle = document.getElementById("theme");
  const THEMES = ["", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("ftlab-theme") || ""; } catch { return ""; } };
  const apply = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    toggle.textContent = `theme: ${theme || "as the system"}`;
    try { localStorage.setItem("ftlab-theme", theme); } catch { /* it lasts as long as the page */ }
  };
  toggle.addEventListener("click", () => {
    apply(THEMES[(THEMES.indexOf(root.dataset.theme || "") + 1) % THEMES.length]);
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  apply(remembered());
  draw();
})();

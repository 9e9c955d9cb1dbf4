/* The charts. Colours are CSS variables, which the browser resolves, so a change of theme needs no redrawing. */
(function () {
  'use strict';
  const specs = JSON.parse(document.getElementById('charts').textContent);
  const tooltip = document.getElementById('tooltip');
  const quiet = { labelColor: 'var(--ink-2)', titleColor: 'var(--ink-2)', labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500 };
  const config = {
    background: null,
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...quiet, gridColor: 'var(--line)', domainColor: 'var(--line-2)', tickColor: 'var(--line-2)', tickSize: 4, labelPadding: 6, titlePadding: 12 },
    axisY: { domain: false, ticks: false },
    legend: { ...quiet, labelFontSize: 13, symbolType: 'square', symbolStrokeWidth: 0, offset: 20 },
    text: { fontSize: 12 },
  };

  function place(event) {
    const x = Math.min(event.clientX + 14, window.innerWidth - tooltip.offsetWidth - 8);
    const above = event.clientY - tooltip.offsetHeight - 14;
    tooltip.style.left = `${Math.max(8, x)}px`;
    tooltip.style.top = `${above > 8 ? above : event.clientY + 18}px`;
  }

  function row(name, value) {
    const line = document.createElement('p');
    const label = document.createElement('span');
    const figure = document.createElement('b');
    label.textContent = name;
    figure.textContent = String(value);
    line.append(label, figure);
    return line;
  }

  function show(handler, event, item, value) {
    tooltip.hidden = value === null || value === undefined || value === '';
    if (tooltip.hidden) return;
    tooltip.replaceChildren(...Object.entries(value).map(([name, text]) => row(name, text)));
    place(event);
  }

  function chooseFlow(event, item) {
    const flow = item && item.datum;
    if (!flow || flow.label === undefined) return;
    document.dispatchEvent(new CustomEvent('faultlight:flow', { detail: { label: flow.label, twin: flow.twin } }));
  }

  async function draw(place) {
    const name = place.dataset.chart;
    place.replaceChildren();
    const spec = { ...specs[name], config: { ...config, ...specs[name].config } };
    const runtime = vega.parse(vegaLite.compile(spec).spec, null, { ast: true });
    const view = new vega.View(runtime, { renderer: 'svg', container: place, expr: vega.expressionInterpreter, tooltip: show });
    if (name === 'flows') view.addEventListener('click', chooseFlow);
    await view.runAsync();
  }

  document.addEventListener('scroll', () => { tooltip.hidden = true; }, { passive: true });
  Promise.all(Array.from(document.querySelectorAll('[data-chart]'), draw))
    .then(() => { document.documentElement.dataset.ready = 'yes'; });
})();

/* Filters and order of the gallery, and the buttons that copy a text. */
(function () {
  'use strict';
  const form = document.getElementById('filters');
  const list = document.getElementById('cards');

  function wanted(card) {
    return ['label', 'twin', 'by'].every((name) => form.elements[name].value === '' || form.elements[name].value === card.dataset[name]);
  }

  function byOrder(order) {
    const down = order.startsWith('-');
    const name = order.replace('-', '');
    const key = (card) => (card.dataset[name] === undefined ? Infinity : (down ? -1 : 1) * Number(card.dataset[name]));
    return (a, b) => key(a) - key(b) || a.dataset.index - b.dataset.index;
  }

  function apply() {
    const cards = Array.from(list.children).sort(byOrder(form.elements.order.value));
    list.append(...cards);
    for (const card of cards) card.hidden = !wanted(card);
    const shown = cards.filter((card) => !card.hidden).length;
    document.getElementById('shown').textContent = shown === cards.length ? `${shown} failures` : `${shown} of ${cards.length} failures`;
    document.getElementById('none').hidden = shown > 0;
  }

  function choose(select, value) {
    select.value = String(value);
    if (select.selectedIndex < 0) select.value = '';
  }

  function onFlow(event) {
    form.reset();
    choose(form.elements.label, event.detail.label);
    choose(form.elements.twin, event.detail.twin);
    apply();
    const calm = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    document.getElementById('gallery').scrollIntoView({ behavior: calm ? 'auto' : 'smooth' });
  }

  async function copy(button) {
    const code = button.parentElement.querySelector('code');
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = 'Selected';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 1600);
  }

  for (const button of document.querySelectorAll('.copy')) {
    button.hidden = false;
    button.addEventListener('click', () => copy(button));
  }
  if (!form) return;
  form.addEventListener('change', apply);
  form.addEventListener('reset', () => setTimeout(apply));
  form.addEventListener('submit', (event) => event.preventDefault());
  document.addEventListener('faultlight:flow', onFlow);
  form.hidden = false;
  apply();
})();

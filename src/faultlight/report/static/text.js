/* The text coloured by any cell, and what stands behind each character. */
(function () {
  'use strict';
  const data = JSON.parse(document.getElementById('data').textContent);
  const levels = Int8Array.from(atob(data.levels), (each) => each.charCodeAt(0));
  const characters = Array.from(data.text);
  const alphabet = Array.from(data.alphabet);
  const by = (id) => document.getElementById(id);
  const text = by('text');
  const strongest = 80; // the share of the full colour at the ends of the scale, so that text stays readable on it
  const widest = 64;
  const most = 8; // bits; what surprises more is drawn like this
  let at = 0;

  const shown = (character) => ({ '\n': '↵', ' ': '␣', '\t': '⇥', '\r': '␍' }[character] || character);
  const chosen = () => ({ layer: Number(by('layer').value), cell: Number(by('cell').value) });
  const signed = (value) => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(2);

  function activations() {
    const { layer, cell } = chosen();
    const start = (layer * data.cells + cell) * data.length;
    return Array.from(levels.subarray(start, start + data.length), (level) => level / data.steps);
  }

  const spans = characters.map((character, place) => {
    const span = document.createElement('span');
    span.dataset.place = place;
    span.textContent = character;
    if (character === '\n') {
      span.textContent = '';
      const mark = document.createElement('span');
      mark.className = 'end';
      mark.textContent = '↵';
      mark.dataset.place = place;
      span.append(mark, '\n');
    }
    return span;
  });
  text.append(...spans);

  const mixed = (colour, share) => `color-mix(in srgb, var(${colour}) ${(strongest * Math.min(share, 1)).toFixed(1)}%, transparent)`;

  function paint() {
    const surprise = by('colour').value === 'surprise';
    const values = surprise ? data.surprise : activations();
    const largest = surprise ? most : by('scale').value === 'own' ? Math.max(...values.map(Math.abs)) : 1;
    spans.forEach((span, place) => {
      const value = values[place] / (largest || 1);
      span.style.backgroundColor = mixed(surprise ? '--t3' : value < 0 ? '--minus' : '--plus', Math.abs(value));
    });
    by('bar').className = surprise ? 'one-sided' : '';
    by('low').textContent = surprise ? '0 bits' : '−' + largest.toFixed(2).replace(/\.00$/, '');
    by('high').textContent = surprise ? `${most} bits or more` : largest.toFixed(2).replace(/\.00$/, '');
    describe();
  }

  function describe() {
    const { layer, cell } = chosen();
    const level = levels[(layer * data.cells + cell) * data.length + at];
    by('character').textContent = shown(characters[at]);
    by('place').textContent = `character ${at + 1} of ${data.length}`;
    by('value').textContent = signed(level / data.steps);
    by('bits').textContent = at ? `${data.surprise[at].toFixed(2)} bits` : 'the first';
    by('expected').replaceChildren(...data.guesses[at].map((guess, rank) => expectation(alphabet[guess], data.chances[at][rank])));
  }

  function expectation(character, chance) {
    const item = document.createElement('li');
    const [name, bar, share] = ['code', 'i', 'span'].map((tag) => document.createElement(tag));
    name.textContent = shown(character);
    bar.style.width = `${100 * chance}%`;
    share.textContent = `${(100 * chance).toFixed(1)} %`;
    if (character === characters[at + 1]) item.className = 'follows';
    item.append(name, bar, share);
    return item;
  }

  function heat() {
    const places = spans.slice(at, at + widest).map((_, offset) => at + offset);
    const rows = [places.map((place) => cellOf(shown(characters[place])))];
    for (let rank = 0; rank < data.guesses[0].length; rank += 1) rows.push(places.map((place) => guessed(place, rank)));
    by('heat').tBodies[0].replaceChildren(...rows.map((cells) => {
      const row = document.createElement('tr');
      row.append(...cells);
      return row;
    }));
  }

  function guessed(place, rank) {
    const character = alphabet[data.guesses[place][rank]];
    const cell = cellOf(shown(character));
    const chance = data.chances[place][rank];
    cell.style.backgroundColor = mixed('--t3', chance);
    cell.title = `${(100 * chance).toFixed(1)} %`;
    if (character === characters[place + 1]) cell.className = 'follows';
    return cell;
  }

  function cellOf(character) {
    const cell = document.createElement('td');
    cell.textContent = character;
    return cell;
  }

  function move(place, scroll) {
    spans[at].classList.remove('at');
    at = Math.min(Math.max(place, 0), data.length - 1);
    spans[at].classList.add('at');
    if (scroll) spans[at].scrollIntoView({ block: 'nearest' });
    describe();
    heat();
  }

  function choose(layer, cell) {
    by('layer').value = layer;
    by('cell').value = Math.min(Math.max(Math.round(cell) || 0, 0), data.cells - 1);
    by('colour').value = 'cell';
    paint();
  }

  text.addEventListener('mouseover', (event) => {
    if (event.target.dataset.place !== undefined) move(Number(event.target.dataset.place), false);
  });
  text.addEventListener('keydown', (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -40, ArrowDown: 40, Home: -data.length, End: data.length };
    if (!(event.key in steps)) return;
    event.preventDefault();
    move(at + steps[event.key], true);
  });
  document.querySelectorAll('button[data-cell]').forEach((button) => {
    button.addEventListener('click', () => {
      choose(Number(button.dataset.layer), Number(button.dataset.cell));
      by('reading-title').scrollIntoView();
    });
  });
  by('layer').addEventListener('change', paint);
  by('cell').addEventListener('change', () => choose(Number(by('layer').value), Number(by('cell').value)));
  by('colour').addEventListener('change', paint);
  by('scale').addEventListener('change', paint);

  choose(...data.first);
  move(0, false);
})();

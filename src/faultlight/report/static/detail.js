/* One failure in full: a dialog filled from the failure's template; arrows go through the failures as filtered. */
(function () {
  'use strict';
  const dialog = document.getElementById('detail');
  if (!dialog) return;
  const body = document.getElementById('detail-body');
  const list = document.getElementById('cards');
  let open = null;

  function shown() {
    return Array.from(list.children).filter((card) => !card.hidden);
  }

  function fill(card) {
    const content = document.getElementById(`detail-${card.dataset.index}`).content.cloneNode(true);
    // The three pictures are in the page once, on the card; the template only points at them.
    for (const image of content.querySelectorAll('img[data-from]')) {
      const source = card.querySelector(`img.${image.dataset.from}`);
      image.src = source.src;
      image.width = source.width;
      image.height = source.height;
      image.alt = source.alt;
    }
    body.replaceChildren(content);
  }

  function address(card) {
    const hash = card ? `#failure-${card.dataset.index}` : location.pathname + location.search;
    try { history.replaceState(null, '', hash); } catch { /* some browsers forbid it for files; only the link is lost */ }
  }

  function show(card) {
    const cards = shown();
    open = card;
    fill(card);
    document.getElementById('position').textContent = `Failure ${cards.indexOf(card) + 1} of ${cards.length}`;
    if (!dialog.open) dialog.showModal();
    body.scrollTop = 0;
    body.focus({ preventScroll: true });
    address(card);
  }

  function move(step) {
    const cards = shown();
    show(cards[(cards.indexOf(open) + step + cards.length) % cards.length]);
  }

  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === 'ArrowRight') move(1);
    else if (event.key === 'ArrowLeft') move(-1);
    else return;
    event.preventDefault();
  }

  function onClosed() {
    address(null);
    body.replaceChildren();
    if (open) open.querySelector('button').focus();
    open = null;
  }

  list.addEventListener('click', (event) => {
    const card = event.target.closest('.card');
    if (card) show(card);
  });
  dialog.addEventListener('keydown', onKey);
  dialog.addEventListener('close', onClosed);
  // A click beside the dialog falls on the dialog element itself: its content covers the rest.
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  document.getElementById('previous').addEventListener('click', () => move(-1));
  document.getElementById('next').addEventListener('click', () => move(1));
  document.getElementById('close').addEventListener('click', () => dialog.close());
  const linked = /^#failure-(\d+)$/.exec(location.hash);
  const card = linked && document.getElementById(`card-${linked[1]}`);
  if (card) show(card);
})();

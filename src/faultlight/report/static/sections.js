/* Marks the section being read in the list of sections. */
(function () {
  'use strict';
  const links = new Map(Array.from(document.querySelectorAll('nav a'), (link) => [link.hash.slice(1), link]));

  function mark(entries) {
    const entered = entries.find((entry) => entry.isIntersecting);
    if (!entered) return;
    for (const [id, link] of links) {
      if (id === entered.target.id) link.setAttribute('aria-current', 'location');
      else link.removeAttribute('aria-current');
    }
  }

  // A section counts as read while it covers a line a quarter of the way down the window.
  const watcher = new IntersectionObserver(mark, { rootMargin: '-25% 0px -74% 0px' });
  for (const id of links.keys()) watcher.observe(document.getElementById(id));
})();

"""Records to Vega-Lite specifications, one file a chart.

Every colour is a CSS variable, which the browser resolves: a chart follows the page's theme without being redrawn.
"""

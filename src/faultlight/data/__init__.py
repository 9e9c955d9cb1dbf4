"""Where images come from: `load_data("mnist")` gives `Images`; one file a format, in `formats`."""

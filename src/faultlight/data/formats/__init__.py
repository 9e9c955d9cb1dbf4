"""The formats that Faultlight reads, one file each; a class here meets `faultlight.data.source.Source`."""

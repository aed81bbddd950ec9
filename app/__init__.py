"""The HTTP service and the web page: `python -m app`, or `make serve`. What knows pictures is in detector/."""

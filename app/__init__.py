"""The HTTP service and the web page: `python -m app`, or `make serve`. Everything that knows pictures is in detector/."""

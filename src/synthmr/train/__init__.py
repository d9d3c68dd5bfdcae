"""Training. The package is also the function `synthmr.api.train`."""

from synthmr.face import make_callable

make_callable(__name__)

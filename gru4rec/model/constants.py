"""Numbers that the plain and the fused forms of the same arithmetic share."""

EPSILON = 1e-6  # inside the square roots of Adagrad, as in the reference, RMSprop and Adadelta
ADAM_EPSILON = 1e-8  # beside Adam's
TINY = 1e-24  # inside the losses' logarithms: no lane loses more than 55.3, and one that would has no gradient
OPTIMIZERS = ("sgd", "adagrad", "rmsprop", "adadelta", "adam")  # numbered so in the fused kernels

"""L2P: a pool of prompts with keys, from which every item takes those whose keys are nearest to its frozen feature.

The feature of the frozen model asks, the keys answer: the N prompts with the nearest keys are put in front of the
item's tokens, and a second term of the loss pulls chosen keys towards the features that chose them. Tasks share
the pool; what keeps them apart is only that different items choose different prompts.

Paper: Learning to Prompt for Continual Learning (arXiv 2112.08654), section 4: the choice K_x = argmin over N keys of
the sum of distances gamma(q(x), k), here cosine, the prompted input [P_s1; ...; P_sN; x_e], and the objective
L + lambda sum over K_x of gamma(q(x), k).
Differs: each tower has a pool of its own, asked by its own frozen feature in the common space (the paper has one
tower and its class token), so pictures and captions can be embedded apart. The pooled vector is the tower's own and
not the mean over prompt tokens, which would leave the common space. Every item chooses for itself in training too;
the released code may take one choice for a whole batch. The paper's optional penalty on prompts that are chosen often
is left out, as it is there. Keys start as random directions, prompts at N(0, 0.02^2).
"""

from lpi.methods.prompt_sets import PooledPrompts
from lpi.methods.prompted import Prompted


class L2P(PooledPrompts, Prompted):
    """A pool of prompts in each tower.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.
    """

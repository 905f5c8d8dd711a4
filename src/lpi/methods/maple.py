"""MaPLe: prompts in both towers, those of the vision tower a linear function of the text tower's.

Every one of the first J blocks of the text tower gets fresh prompt tokens; for each of them a learned linear map makes
the prompts of the vision tower's block from them, so the two towers can't drift apart on their own. Trained on from
task to task.

Paper: MaPLe (arXiv 2210.03117), section 3.2: deep language prompting [_, W_i] = L_i([P_i-1, W_i-1]), deep vision
prompting [c_i, E_i, _] = V_i([c_i-1, E_i-1, P~_i-1]), both up to block J, and the coupling P~_k = F_k(P_k), F_k linear.
Differs: the caption stands where the class name does, and the loss is the symmetric one over pairs. Where the towers
differ in depth, prompts of block l of the shallower one (n blocks) meet block floor(l N / n) of the other (N); between,
their states go on. A text tower without placeholders (BERT) gets all of them as tokens without positions.
"""

from lpi.methods.prompt_sets import CoupledPrompts
from lpi.methods.prompted import Prompted


class MaPLe(CoupledPrompts, Prompted):
    """Coupled prompts for both towers.

    Args:
        backbone: the frozen dual encoder.
        options: see :class:`Options`.
    """

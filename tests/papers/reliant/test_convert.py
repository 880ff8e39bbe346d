"""Released parameter names to flax and back."""

import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.reliant import from_official, to_official

STATE_DICTS = {
    "gcn": {"layers.0.weight": (7, 8), "layers.0.bias": (8,), "layers.1.weight": (8, 2)},
    "sage": {"layers.0.fc_neigh.weight": (4, 13), "layers.0.bias": (4,)},
    "sgc": {"layers.0.fc.weight": (8, 9), "layers.0.fc.bias": (8,)},
    "plp": {
        "plp_layer.attn_l": (1, 7),
        "plp_layer.lr_alpha": (30, 1),
        "plp_layer.mlp.linears.0.weight": (6, 7),
        "plp_layer.mlp.linears.0.bias": (6,),
        "plp_layer.mlp.linears.1.weight": (2, 6),
    },
    "plp_tra": {
        "plp_layer.fc_emb": (30, 1),
        "plp_layer.lr_alpha": (30, 1),
        "plp_layer.mlp.linear.weight": (2, 7),
    },
    "discriminators": {
        "logits_D.lin.weight": (2, 2),
        "logits_D.lin.bias": (2,),
        "logits_D.lin2.weight": (3, 2),
        "local_emb_D.d": (8,),
        "local_emb_D.scale": (1,),
        "global_emb_D.d": (8,),
        "global_emb_D.scale": (1,),
    },
}


@pytest.mark.parametrize("network", STATE_DICTS)
def test_names_come_back_the_same(network):
    generator = np.random.default_rng(0)
    state = {name: generator.normal(size=s) for name, s in STATE_DICTS[network].items()}
    again = to_official(from_official(state, network), network)
    assert again.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(again[name], array)


def test_what_nothing_reads_is_left_out_and_other_names_are_told():
    state = {name: np.ones(s) for name, s in STATE_DICTS["plp"].items()}
    assert "alpha" not in to_official(from_official(state | {"alpha": np.ones(3)}, "plp"), "plp")
    with pytest.raises(InvalidInputError, match="beta"):
        from_official(state | {"beta": np.ones(3)}, "plp")
    with pytest.raises(InvalidInputError, match="gcn, sage"):
        from_official(state, "resnet")

"""The networks of the field's federated experiments (the paper's own could not be read).

FedAvg's (McMahan et al., 2017) for MNIST, Fashion-MNIST and CIFAR-10, and smaller ones for CPUs.
"""

import flax.linen as nn

from lab.nn.convnets import MLP, ConvNet, ConvNetConfig, MLPConfig
from lab.papers.dacfl.topology import require_known

FEDAVG_CNN = ConvNetConfig(features=(32, 64), padding="SAME", hidden=(512,))
CIFAR_CNN = ConvNetConfig(
    features=(64, 64),
    padding="SAME",
    pool_window=3,
    pool_padding="SAME",
    hidden=(384, 192),
)
SMALL_CNN = ConvNetConfig(features=(8, 16))

# Parameters on MNIST (28 x 28 x 1): logistic 7,850; mlp 50,890; mlp2 199,210; small_cnn 5,994;
# fedavg_cnn 1,663,370. cifar_cnn: 1,068,298 on 24 x 24 x 3 crops, 1,756,426 on 32 x 32 x 3.
MODELS: dict[str, MLPConfig | ConvNetConfig] = {
    "logistic": MLPConfig(hidden=()),
    "mlp": MLPConfig(hidden=(64,)),
    "mlp2": MLPConfig(hidden=(200, 200)),
    "small_cnn": SMALL_CNN,
    "fedavg_cnn": FEDAVG_CNN,
    "cifar_cnn": CIFAR_CNN,
}


def build(config: str | MLPConfig | ConvNetConfig) -> nn.Module:
    """The module of a configuration, or of one of MODELS by name.

    Raises: InvalidInputError for an unknown name.
    """
    if isinstance(config, str):
        require_known(config, MODELS, "model")
        config = MODELS[config]
    return MLP(config) if isinstance(config, MLPConfig) else ConvNet(config)

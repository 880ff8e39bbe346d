"""TinyMIM: relations of a masked-image-modelling teacher's tokens, learned by a small ViT.

Ren, Wei, Zhang, Hu, CVPR 2023 (arXiv 2301.01296). Where to find what:

- sec. 3.2, token relations R = softmax(X Y^T / sqrt(d)): `relations.token_relations`
- sec. 3.2, the relation loss KL(R_t || R_s) of QK and VV: `losses.relation_kl`, term by term in
  `distill.distillation_losses`
- sec. 3.2, class token and feature targets (tables 5, 6): `losses.softmax_kl`,
  `losses.feature_loss`
- sec. 3.3, adaptive block and target block (table 10): `distill.student_config`, `target_block`
- sec. 3.3, sequential distillation (table 11): `stages.STAGES`, `stages.encoder_of`
- table 12, masked input and reconstruction: `Distillation.mask_ratio`, `reconstruction_weight`
- MAE (He et al., 2022): `models.MAE`, `masking.random_masking`, `losses.reconstruction_loss`
- steps: `make_distillation_step`, `make_step(mae_loss_fn(...))`, `make_step(finetune_loss_fn(...))`
- what moves and what decays: `optimizers.moving_parts`, `pretraining_adamw`, `finetuning_adamw`
- reconstructions, attention, likeness of layers for figures: `pictures`
- others' weights: `convert.from_official`, `convert.to_official`; mmseg's:
  `convert_segmentation.from_mmseg`, `to_mmseg`
- segmentation (sec. 4.1): `segmentation.Segmenter`, `make_segmentation_step`; by sliding windows:
  `sliding.make_predictor`
- probes of frozen features: `probes`; table 4, ImageNet-A, -R, -C: `robustness`, `metrics`

The network is `lab.nn.vit.ViT`; a config a model, `init_variables(config, key)` its variables.
"""

from lab.papers.tinymim.convert import from_official, relayout, to_official, vit_config_of
from lab.papers.tinymim.distill import Distillation, distillation_losses, student_config
from lab.papers.tinymim.losses import feature_loss, relation_kl, softmax_kl
from lab.papers.tinymim.masking import random_masking
from lab.papers.tinymim.models import (
    MAE,
    Classifier,
    ClassifierConfig,
    MAEConfig,
    Student,
    StudentConfig,
    class_logits,
    init_variables,
    variable_shapes,
)
from lab.papers.tinymim.optimizers import finetuning_adamw, moving_parts, pretraining_adamw
from lab.papers.tinymim.probes import (
    LinearProbe,
    knn_predict,
    logistic_probe_accuracy,
    pooled_features,
    train_linear_probe,
)
from lab.papers.tinymim.relations import token_relations
from lab.papers.tinymim.segmentation import (
    Segmenter,
    SegmenterConfig,
    make_segmentation_step,
    segmentation_adamw,
    segmentation_backbone,
    start_segmenter,
)
from lab.papers.tinymim.stages import (
    STAGES,
    encoder_of,
    finetuning_backbone,
    start_classifier,
)
from lab.papers.tinymim.steps import (
    TeacherLabels,
    distillation_loss_fn,
    finetune_loss_fn,
    mae_loss_fn,
    make_classifier_eval,
    make_distillation_step,
    make_step,
)

__all__ = [
    "MAE",
    "STAGES",
    "Classifier",
    "ClassifierConfig",
    "Distillation",
    "LinearProbe",
    "MAEConfig",
    "Segmenter",
    "SegmenterConfig",
    "Student",
    "StudentConfig",
    "TeacherLabels",
    "class_logits",
    "distillation_loss_fn",
    "distillation_losses",
    "encoder_of",
    "feature_loss",
    "finetune_loss_fn",
    "finetuning_adamw",
    "finetuning_backbone",
    "from_official",
    "init_variables",
    "knn_predict",
    "logistic_probe_accuracy",
    "mae_loss_fn",
    "make_classifier_eval",
    "make_distillation_step",
    "make_segmentation_step",
    "make_step",
    "moving_parts",
    "pooled_features",
    "pretraining_adamw",
    "random_masking",
    "relation_kl",
    "relayout",
    "segmentation_adamw",
    "segmentation_backbone",
    "softmax_kl",
    "start_classifier",
    "start_segmenter",
    "student_config",
    "to_official",
    "token_relations",
    "train_linear_probe",
    "variable_shapes",
    "vit_config_of",
]

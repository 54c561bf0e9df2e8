"""What plugins may import: these modules, and of them every name without a leading underscore.

Within a major hook API version a name of these modules is not removed or changed without a deprecation (see CONTRIBUTING).
"""

PUBLIC = frozenset(
    {
        "ddcore",
        "ddcore.artifact",
        "ddcore.augment",
        "ddcore.batch_statistics",
        "ddcore.builtin",
        "ddcore.cifar_networks",
        "ddcore.curvature",
        "ddcore.data",
        "ddcore.decoders",
        "ddcore.errors",
        "ddcore.experts",
        "ddcore.label_rules",
        "ddcore.labels",
        "ddcore.levels",
        "ddcore.networks",
        "ddcore.normalisation",
        "ddcore.packed",
        "ddcore.parts",
        "ddcore.patches",
        "ddcore.parts_of_loss",
        "ddcore.passes",
        "ddcore.randomness",
        "ddcore.run",
        "ddcore.scores",
        "ddcore.selection",
        "ddcore.shared_view",
        "ddcore.storage",
        "ddcore.teachers",
        "ddcore.teaching",
        "ddcore.testing",
        "ddcore.tracking",
        "ddcore.training",
        "ddcore.trajectory",
        "ddcore.types",
        "ddcore.unroll",
        "ddcore.views",
        "ddcore.vision",
        "ddcore.work",
    }
)

"""Which weights of a transformer are trained.

Belongs here: freezing, top layers and low-rank adapters, on any Hugging Face encoder. Does not: loops and losses.
"""

from typing import TYPE_CHECKING, Literal

from anmi_pipeline.errors import InputError
from anmi_pipeline.training.config import TextTraining

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Trainable = Literal["top_layers", "all", "lora"]


def select_weights(module: "Module", trainable: Trainable, config: TextTraining) -> dict[str, "Tensor"]:
    """Freeze what is not trained and return what is, by name, in the model's order.

    Args:
        module: a model with one stack of transformer layers.
        trainable: top_layers: the last `config.layers` layers and whatever follows the stack; all: everything; lora: adapters,
            which are put into the module here (`merge_adapters` folds them in afterwards).
        config: layers, rank and modules.

    Raises:
        InputError: the model has no stack of layers, fewer layers than asked for, or no module that an adapter fits.
    """
    if trainable == "lora":
        add_adapters(module, config)
        return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    frozen = prefixes_below_top(module, config.layers) if trainable == "top_layers" else ()
    for name, weight in module.named_parameters():
        weight.requires_grad_(not name.startswith(frozen) if frozen else True)
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def layer_stack(module: "Module") -> tuple[str, int]:
    """Name and length of the stack of transformer layers: the longest list of modules, the outermost when several are equal."""
    from torch.nn import ModuleList

    stacks = [(name, len(part)) for name, part in module.named_modules() if isinstance(part, ModuleList)]
    if not stacks:
        raise InputError(f"{type(module).__name__} has no stack of transformer layers. Set trainable to all.")
    return max(stacks, key=lambda stack: (stack[1], -len(stack[0])))


def prefixes_below_top(module: "Module", layers: int) -> tuple[str, ...]:
    """Prefixes of the parameters that lie below the last `layers` layers: embeddings and lower layers."""
    stack, depth = layer_stack(module)
    if layers > depth:
        raise InputError(
            f"layers is {layers}, but {type(module).__name__} has {depth} transformer layers. Lower it or set trainable to all."
        )
    below = tuple(f"{stack}.{index}." for index in range(depth - layers))
    return (*below, *(f"{name}." for name, _ in module.named_modules() if name.rpartition(".")[2].startswith("embed")))


def add_adapters(module: "Module", config: TextTraining) -> None:
    """Put low-rank adapters into the linear layers called `config.lora_modules` (Hu et al. 2021, arXiv 2106.09685).

    They start without effect (B = 0).
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, _ in module.named_modules()]
    if not any(name.rpartition(".")[2] in config.lora_modules for name in names):
        leaves = sorted({name.rpartition(".")[2] for name in names if name.rpartition(".")[2].isidentifier()})
        raise InputError(
            f"no module of {type(module).__name__} is called {' or '.join(config.lora_modules)}; it has {', '.join(leaves)}. "
            "Set lora_modules."
        )
    settings = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, target_modules=list(config.lora_modules)
    )
    inject_adapter_in_model(settings, module)
    for name, weight in module.named_parameters():
        weight.requires_grad_("lora_" in name)


def merge_adapters(module: "Module") -> None:
    """Fold every adapter into its linear layer, so that the model is saved and served like any other."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, layer.get_base_layer())

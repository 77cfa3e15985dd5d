"""Read YAML that users write: no aliases, no duplicate keys, plain values only."""

from __future__ import annotations

from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises yaml.YAMLError, and what PyYAML's constructors raise."""
    return _StrictLoader(text).get_single_data()


class _StrictLoader(yaml.SafeLoader):
    """Loads YAML without aliases, which can make a small file grow without limit, and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*) are not allowed", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a key occurs twice", problem_mark=node.start_mark)
        return mapping

"""What hqserver.ini, network_folders.ini and hqnode.ini say, as frozen dataclasses.

ini        the files as they stand: keys and values with their lines
kinds      what a value can be, with ranges and units
settings   settings declared as dataclass fields, and complaints about them
folders    network_folders.ini
server     ServerConfig
client     ClientConfig

To add a setting: one line in ServerConfig or ClientConfig, and for the server its paragraph in hqserver.ini.
Nothing is clamped and nothing is guessed: what cannot be used stops the start, with the place and what was expected.
"""

from hqueue.config.client import ClientConfig, address_url, client_label, load_client_config, server_address
from hqueue.config.folders import NetworkFolder
from hqueue.config.server import Policy, ServerConfig, load_server_config

__all__ = [
    "ClientConfig",
    "NetworkFolder",
    "Policy",
    "ServerConfig",
    "address_url",
    "client_label",
    "load_client_config",
    "load_server_config",
    "server_address",
]

"""Servers: a center that closes a round when a quorum of proposals is in, among threads, on Ray, or on a virtual clock."""

from parle.servers.clock import Clock, Link
from parle.servers.ray_server import RayServer
from parle.servers.rules import Rules
from parle.servers.seat import Host, Seat
from parle.servers.simulated import Simulated
from parle.servers.threads import Server

__all__ = ["Clock", "Host", "Link", "RayServer", "Rules", "Seat", "Server", "Simulated"]

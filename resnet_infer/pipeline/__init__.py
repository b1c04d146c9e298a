"""The one path: decode, render, pack, load, batch, run, average."""

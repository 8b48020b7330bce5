"""Import a package and every module in it: python import_all.py iai_tasks."""

import importlib
import pkgutil
import sys

if __name__ == "__main__":
    package = importlib.import_module(sys.argv[1])
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in names:
        importlib.import_module(name)
    print(f"{package.__name__}: {len(names)} modules imported from {package.__path__[0]}")

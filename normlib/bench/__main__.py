import sys

from normlib.bench.command import main

sys.exit(main())

from lab.engines import *

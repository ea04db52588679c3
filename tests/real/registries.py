from lab.registries import *

"""The whole ensemble as one data set: a virtual one that refers to the leads, a real one on a regular grid."""

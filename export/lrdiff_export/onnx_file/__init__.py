"""Bytes of an ONNX file: conversion, passes, float16, external data, loading."""

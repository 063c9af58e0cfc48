"""Delivery over MQTT."""

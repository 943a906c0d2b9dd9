// The sensors of sensors.hpp for Python: see sensors.py.

#include "sensors.hpp"

using sensors::Bus;

extern "C" {

size_t sensors_rail_bytes() { return sizeof(sensors::Rail); }

Bus* sensors_new(const sensors::Rail* rails, size_t count) {
    auto* bus = new Bus;
    for (size_t i = 0; i < count; ++i) bus->add(rails[i]);
    return bus;
}

void sensors_delete(Bus* bus) { delete bus; }

void sensors_watts(Bus* bus, double time, size_t chip, double watts) { bus->chip(chip).set_watts(time, watts); }

int sensors_drive(Bus* bus, double time, int scl_low, int sda_low) {
    bus->drive(time, scl_low, sda_low);
    return bus->scl_high() | bus->sda_high() << 1;
}

uint64_t sensors_look(Bus* bus, double time, size_t chip, int number) {
    bus->chip(chip).advance(time);
    return bus->chip(chip).look(number);
}

int sensors_alert(Bus* bus, double time, size_t chip) {
    bus->chip(chip).advance(time);
    return bus->chip(chip).alert();
}

void sensors_jam(Bus* bus, int falls) { bus->jam(falls); }

uint64_t sensors_violations(const Bus* bus) { return bus->violations; }
}

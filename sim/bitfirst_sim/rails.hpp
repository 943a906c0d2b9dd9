// The supply of a simulated device and the sensors on it: what the device does takes joules, which the sensors see.
//
// The device takes so many watts at rest, and joules for each event of a cycle. The sensors see the mean of the last
// `SPAN` cycles, as behind the supply's capacitors; each rail carries the whole of it. While it records, these means are
// kept, each with the phase of its last cycle.

#ifndef BITFIRST_RAILS_HPP
#define BITFIRST_RAILS_HPP

#include <sstream>
#include <string>
#include <vector>

#include "xadc.hpp"

namespace sensors {

constexpr int SPAN = 64, EVENTS = 5, PHASES = 8;

class Rails {
public:
    // Numbers with spaces between them: clock in Hz, watts at rest, joules of each event, how many rails, then each
    // rail's fields in their order. Nothing: no chip, and no joules.
    explicit Rails(const std::string& numbers) {
        std::istringstream in(numbers);
        size_t count = 0;
        in >> clock_hz >> idle_watts;
        for (auto& joules : event_joules) in >> joules;
        in >> count;
        for (size_t i = 0; i < count; ++i) {
            Rail rail;
            in >> rail.kind >> rail.address >> rail.shunt_ohm >> rail.supply_volts >> rail.source_ohm;
            in >> rail.offset_volts >> rail.gain_error >> rail.bus_offset_volts >> rail.bus_gain_error;
            in >> rail.time_error >> rail.noise_volts >> rail.bus_noise_volts >> rail.die_celsius;
            in >> rail.stops_s >> rail.seed >> rail.update_s >> rail.page >> rail.linearity_volts;
            bus.add(rail);
        }
        if (!numbers.empty() && !in) throw std::invalid_argument("rails: " + numbers);
        for (size_t i = 0; i < bus.size(); ++i) bus.chip(i).set_watts(0, idle_watts);
    }

    // Behind it there is nothing recorded.
    void record(bool on) {
        recording = on;
        recorded_watts.clear();
        recorded_phases.clear();
    }

    // Pins and the levels that come of them, as in wrapper.sv.
    unsigned cycle(unsigned pins, unsigned work, unsigned phase) {
        double taken = idle_watts / clock_hz;
        for (int i = 0; i < EVENTS; ++i)
            if (work >> i & 1) taken += event_joules[i];
        joules[phase] += taken;
        span_joules += taken;
        ++cycles;
        if (cycles % SPAN == 0) {
            const double watts = span_joules * clock_hz / SPAN;
            if (recording) {
                recorded_watts.push_back(watts);
                recorded_phases.push_back(static_cast<uint8_t>(phase));
            }
            for (size_t i = 0; i < bus.size(); ++i) bus.chip(i).set_watts(now(), watts);
            span_joules = 0;
        }
#ifdef XADC
        bus.clock(now(), pins & 1, pins >> 1 & 1, pins >> 2, pins >> 9);
        return bus.word | bus.ready << 16 | bus.ended << 17;
#else
        if (pins != driven) drive(pins);
        driven = pins;
#endif
#ifdef SPI
        return bus.miso_high();
#elif !defined(XADC)
        return (bus.scl_high() && !(pins & 1)) | (bus.sda_high() && !(pins & 2)) << 1;
#endif
    }

#ifdef XADC
    Xadc bus;
#elif defined(SPI)
    SpiBus bus;
#else
    Bus bus;
#endif
    double joules[PHASES] = {};
    std::vector<double> recorded_watts;
    std::vector<uint8_t> recorded_phases;

private:
    double now() const { return static_cast<double>(cycles) / clock_hz; }

#ifdef SPI
    void drive(unsigned pins) { bus.drive(now(), pins & 1, pins & 2, pins >> 2); }
#elif !defined(XADC)
    void drive(unsigned pins) { bus.drive(now(), pins & 1, pins & 2); }
#endif

    double clock_hz = 1, idle_watts = 0, event_joules[EVENTS] = {}, span_joules = 0;
    uint64_t cycles = 0;
    unsigned driven = 0;
    bool recording = false;
};

}  // namespace sensors

#endif

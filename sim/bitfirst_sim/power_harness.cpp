// The compiled `bitfirst_hdl.power.monitor.PowerMonitor` alone, with sensors on its pins and loads that are told: for
// Python, see power_simulator.py. Joules are those of the loads, not of what the sensors say.

#include <array>
#include <deque>

#include "Vmonitor.h"
#include "xadc.hpp"

namespace {

constexpr int PHASES = 8;
constexpr uint64_t READ_LIMIT = 1 << 20;  // cycles until a word comes: clearing the sums and a transfer take less
constexpr int KEEP_PHASE = -1;

struct Segment {
    uint64_t cycles;
    int phase;
    std::vector<double> watts;
};

// The bus that the monitor was made for.
#ifdef XADC
using Bus = sensors::Xadc;
#elif defined(SPI)
using Bus = sensors::SpiBus;
#else
using Bus = sensors::Bus;
#endif

class PowerSimulator {
public:
    PowerSimulator(const sensors::Rail* rails, size_t count, double clock_hz)
        : clock_hz(clock_hz), watts(count), joules(count) {
        for (size_t i = 0; i < count; ++i) bus.add(rails[i]);
        sense();
        model.eval();  // the clock's first level is no edge
    }

    ~PowerSimulator() { model.final(); }

    void load(std::vector<double> now) {
        segments.clear();
        segment_end = NEVER;
        take(std::move(now));
    }

    void play(Segment segment) {
        segments.push_back(std::move(segment));
        if (segment_end == NEVER) next_segment();
    }

    void phase(int number) {
        settle();
        model.phase = static_cast<uint8_t>(number);
    }

    void run(uint64_t count) {
        const uint64_t end = cycles + count;
        while (cycles < end) {
            const uint64_t stop = std::min(end, segment_end);
            while (cycles < stop) tick();
            if (cycles == segment_end) next_segment();
        }
    }

    void write(uint16_t row, uint64_t word) {
        model.write___05Fvalid = 1;
        model.write___05Frow = row;
        model.write___05Fdata = word;
        run(1);
        model.write___05Fvalid = 0;
    }

    bool read(uint16_t first, size_t count, uint64_t* words) {
        model.read_start = 1;
        model.read_first = first;
        run(1);
        model.read_start = 0;
        model.words___05Fready = 1;
        for (uint64_t limit = cycles + READ_LIMIT; count && cycles < limit;) {
            model.eval();
            const bool given = model.words___05Fvalid;
            const uint64_t word = model.words___05Fpayload;
            run(1);
            if (!given) continue;
            *words++ = word;
            --count;
            limit = cycles + READ_LIMIT;
        }
        model.words___05Fready = 0;
        return !count;
    }

    bool jam(int falls) {
#if defined(SPI) || defined(XADC)
        return falls < 0;
#else
        bus.jam(falls);
        sense();
        return true;
#endif
    }

    double joules_of(size_t rail, int phase) {
        settle();
        return joules.at(rail).at(static_cast<size_t>(phase));
    }

    uint64_t cycles = 0;
    Bus bus;

private:
    static constexpr uint64_t NEVER = ~uint64_t{0};

    double now() const { return static_cast<double>(cycles) / clock_hz; }

    // One cycle: the Verilog is clocked by both edges, so that this is one evaluation.
    void tick() {
        model.clk = !model.clk;
        model.eval();
        ++cycles;
#ifdef XADC
        bus.clock(now(), model.drp_enable, model.drp_write, model.drp_address, model.drp_written);
        sense();
#else
        drive();
#endif
    }

#ifndef XADC
    void drive() {
#ifdef SPI
        const unsigned pins = model.sclk | model.mosi << 1 | model.cs_n << 2;
        if (pins == driven) return;
        bus.drive(now(), model.sclk, model.mosi, model.cs_n);
#else
        const unsigned pins = model.scl_low | model.sda_low << 1;
        if (pins == driven) return;
        bus.drive(now(), model.scl_low, model.sda_low);
#endif
        driven = pins;
        sense();
    }
#endif

    void sense() {
#ifdef XADC
        model.drp_read = static_cast<uint16_t>(bus.word);
        model.drp_ready = bus.ready;
        model.sequence_ended = bus.ended;
#elif defined(SPI)
        model.miso = bus.miso_high();
#else
        model.scl_i = bus.scl_high();
        model.sda_i = bus.sda_high();
#endif
    }

    // What has been taken since the load or the phase changed.
    void settle() {
        const double seconds = static_cast<double>(cycles - settled) / clock_hz;
        for (size_t i = 0; i < watts.size(); ++i) joules[i][model.phase % PHASES] += watts[i] * seconds;
        settled = cycles;
    }

    void take(std::vector<double> next) {
        settle();
        watts = std::move(next);
        for (size_t i = 0; i < watts.size(); ++i) bus.chip(i).set_watts(now(), watts[i]);
    }

    void next_segment() {
        segment_end = NEVER;
        if (segments.empty()) return;
        take(std::move(segments.front().watts));
        if (segments.front().phase != KEEP_PHASE) model.phase = static_cast<uint8_t>(segments.front().phase);
        segment_end = cycles + segments.front().cycles;
        segments.pop_front();
    }

    Vmonitor model;
    const double clock_hz;
    std::deque<Segment> segments;
    std::vector<double> watts;
    std::vector<std::array<double, PHASES>> joules;
    uint64_t segment_end = NEVER, settled = 0;
    unsigned driven = 0;
};

}  // namespace

extern "C" {

size_t power_rail_bytes() { return sizeof(sensors::Rail); }

PowerSimulator* power_new(const sensors::Rail* rails, size_t count, double clock_hz) {
    return new PowerSimulator(rails, count, clock_hz);
}

void power_delete(PowerSimulator* simulator) { delete simulator; }

void power_load(PowerSimulator* simulator, const double* watts) {
    simulator->load({watts, watts + simulator->bus.size()});
}

void power_play(PowerSimulator* simulator, uint64_t cycles, int phase, const double* watts) {
    simulator->play({cycles, phase, {watts, watts + simulator->bus.size()}});
}

void power_phase(PowerSimulator* simulator, int number) { simulator->phase(number); }

void power_run(PowerSimulator* simulator, uint64_t cycles) { simulator->run(cycles); }

void power_write(PowerSimulator* simulator, int row, uint64_t word) {
    simulator->write(static_cast<uint16_t>(row), word);
}

int power_read(PowerSimulator* simulator, int first, size_t count, uint64_t* words) {
    return simulator->read(static_cast<uint16_t>(first), count, words);
}

double power_joules(PowerSimulator* simulator, size_t rail, int phase) { return simulator->joules_of(rail, phase); }

uint64_t power_cycles(const PowerSimulator* simulator) { return simulator->cycles; }

uint64_t power_violations(const PowerSimulator* simulator) { return simulator->bus.violations; }

int power_jam(PowerSimulator* simulator, int falls) { return simulator->jam(falls); }
}

// Power monitors on an I2C bus: INA226, INA228 and INA219 (Texas Instruments SBOS547, SLYS021, SBOS448), as the device's
// pins see them, and as the analogue side drives them. INA229 (SLYS023) is INA228 on an SPI bus, UCD9248 on a PMBus.
//
// A rail is a supply of some volts behind some ohms, a shunt, and a load that takes so many watts: its chip measures the
// volts across the shunt, and those at the load against ground. The converter is on one of them at a time, and gives the
// mean over the time of a conversion, with offset, gain error and noise, rounded to its steps; so a reading across a
// change of the load lies between, and current and voltage of one reading are of different times, as they are in the chip.
//
// Times are seconds since power-up, of the world, not of a chip's own oscillator. Nothing is computed in between: a chip
// catches up with its conversions when its input changes or when one of its registers is looked at.
//
// Where the data sheets are silent: products and means are cut towards zero; numbers too large stay at the largest one;
// what is read behind the last byte of a register is ones; limits are compared with what is in the registers; CNVRF of
// the INA228, which reading clears with ALATCH, stays without it until ADC_CONFIG is written. The chips' answer to the
// SMBus alert address and the high-speed mode (over 400 kHz) are left out.

#ifndef BITFIRST_SENSORS_HPP
#define BITFIRST_SENSORS_HPP

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace sensors {

// A supply with its chip. Errors are those of this one chip; 0 is the chip of the data sheet's typical column.
struct Rail {
    int kind = 226;  // 226, 228, 219, 229 or 9248; of the converter in xadc.hpp any
    int address = 0x40;  // of INA229 the number of its line
    double shunt_ohm = 0.1;  // 0: there is none, and volts across it are amperes
    double supply_volts = 5;
    double source_ohm = 0;         // of the supply and the wires, in front of the shunt
    double offset_volts = 0;       // across the shunt
    double gain_error = 0;         // of that: 0.001 reads 0.1 % too much
    double bus_offset_volts = 0;
    double bus_gain_error = 0;
    double time_error = 0;         // of conversions: 0.1 takes 10 % too long
    double noise_volts = 0;        // across the shunt, rms, in a conversion of 1 ms; falls with the root of the time
    double bus_noise_volts = 0;
    double die_celsius = 25;
    double stops_s = std::numeric_limits<double>::infinity();  // from then on it does not answer
    uint64_t seed = 0;             // of the noise
    double update_s = 800e-6;      // of UCD9248: from one sample of the current to the next
    int page = 0;                  // likewise: which of its outputs the rail is; nothing is taken from the others
    double linearity_volts = 0;    // across the shunt, of a bow; of the converter in xadc.hpp alone
};

// Normal deviates, the same everywhere: what std::normal_distribution gives is up to the library.
class Noise {
public:
    explicit Noise(uint64_t seed) : bits(seed) {}

    double operator()() {
        const double radius = std::sqrt(-2 * std::log(1 - uniform()));
        return radius * std::cos(6.283185307179586 * uniform());
    }

private:
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    std::mt19937_64 bits;
};

inline int64_t rounded(double value, int64_t least, int64_t most) {
    if (!(value > static_cast<double>(least))) return least;
    return value < static_cast<double>(most) ? std::llround(value) : most;
}

enum class Input { SHUNT, BUS, DIE };

// What all of them share: the converter, which goes round a list of conversions, and the addressing.
class Chip {
public:
    explicit Chip(const Rail& rail) : rail(rail), noise(rail.seed) { load(0); }
    virtual ~Chip() = default;

    // The load takes so many watts from `time` on; a supply that cannot give them gives what it can.
    void set_watts(double time, double watts) {
        advance(time);
        load(watts);
    }

    // Up to `time`, which does not go back.
    void advance(double time) {
        while (converting && end <= time) {
            integrate(end);
            convert();
        }
        integrate(time);
    }

    bool answers(double time) const { return time < rail.stops_s; }

    // Of the register that the pointer is at, as of now; `look` changes nothing, `read` does what reading does.
    virtual int width() const { return 2; }  // bytes
    virtual uint64_t look(int number) const = 0;
    virtual uint64_t read() { return look(pointer); }
    virtual void write(uint64_t value) = 0;
    virtual bool alert() const { return false; }  // pulls its pin to what is the active level

    const Rail rail;
    uint8_t pointer = 0;

protected:
    struct Conversion {
        Input input;
        double micros;
    };

    // Begin, after a pause, a list of conversions so many times, and that for ever if `continuous`; an empty list: power-down.
    void start(const std::vector<Conversion>& list, int times, bool continuous, double pause_micros = 0) {
        conversions.clear();
        for (int i = 0; i < times; ++i) conversions.insert(conversions.end(), list.begin(), list.end());
        for_ever = continuous;
        next = 0;
        converting = !conversions.empty();
        if (converting) begin(now + pause_micros * micro());
    }

    virtual void converted(Input input, double volts) = 0;  // degrees of Celsius for `DIE`
    virtual void finished() = 0;                              // the last one of them was

private:
    double micro() const { return 1e-6 * (1 + rail.time_error); }

    void load(double watts) {
        // Of the two currents at which the load takes its watts, the smaller; at most that of the most watts.
        const double volts = rail.supply_volts, ohm = rail.source_ohm + rail.shunt_ohm;
        const double root = std::sqrt(std::max(0.0, volts * volts - 4 * ohm * watts));
        const double amps = ohm > 0 ? 2 * std::min(watts, volts * volts / (4 * ohm)) / (volts + root) : watts / volts;
        shunt_volts = amps * (rail.shunt_ohm > 0 ? rail.shunt_ohm : 1);
        bus_volts = volts - amps * ohm;
    }

    void begin(double time) {
        from = time;
        end = time + conversions[next].micros * micro();
        integral = 0;
    }

    void integrate(double time) {
        if (converting && time > from) {
            const Input input = conversions[next].input;
            const double value = input == Input::SHUNT ? shunt_volts : input == Input::BUS ? bus_volts : rail.die_celsius;
            integral += value * (time - std::max(now, from));
        }
        now = std::max(now, time);
    }

    void convert() {
        const auto [input, micros] = conversions[next];
        const double mean = integral / (end - from), less = std::sqrt(1000 / micros);
        double value = mean;
        if (input == Input::SHUNT)
            value = mean * (1 + rail.gain_error) + rail.offset_volts + disturbance(rail.noise_volts * less);
        if (input == Input::BUS)
            value = mean * (1 + rail.bus_gain_error) + rail.bus_offset_volts + disturbance(rail.bus_noise_volts * less);
        converted(input, value);
        const bool last = ++next == conversions.size();
        next = last ? 0 : next;
        begin(end);
        if (last) {
            converting = for_ever;
            finished();
        }
    }

    double disturbance(double rms) { return rms > 0 ? rms * noise() : 0; }

    std::vector<Conversion> conversions;
    size_t next = 0;
    bool converting = false, for_ever = false;
    double now = 0, from = 0, end = 0, integral = 0;
    double shunt_volts = 0, bus_volts = 0;
    Noise noise;
};

// Mean of so many numbers, cut towards zero.
class Mean {
public:
    void add(int64_t number) {
        sum += number;
        ++count;
    }
    int64_t take() {
        const int64_t mean = sum / std::max<int64_t>(count, 1);
        sum = count = 0;
        return mean;
    }

private:
    int64_t sum = 0, count = 0;
};

constexpr int AVERAGES[] = {1, 4, 16, 64, 128, 256, 512, 1024};  // of INA226 and INA228

class Ina226 : public Chip {
public:
    explicit Ina226(const Rail& rail) : Chip(rail) { reset(); }

    uint64_t look(int number) const override {
        switch (number) {
            case 0x00: return config;
            case 0x01: return static_cast<uint16_t>(shunt);
            case 0x02: return static_cast<uint16_t>(bus);
            case 0x03: return static_cast<uint16_t>(power);
            case 0x04: return static_cast<uint16_t>(current);
            case 0x05: return calibration;
            case 0x06: return static_cast<uint16_t>(mask | flags);
            case 0x07: return limit;
            case 0xFE: return 0x5449;
            case 0xFF: return 0x2260;
            default: return 0;
        }
    }

    uint64_t read() override {
        const uint64_t value = look(pointer);
        if (pointer == 0x06) flags &= mask & LATCH ? ~(READY | EXCEEDED) : ~READY;
        return value;
    }

    void write(uint64_t value) override {
        if (pointer == 0x00 && value & 0x8000) return reset();
        if (pointer == 0x00) configure(static_cast<uint16_t>((value & 0x0FFF) | 0x4000));
        if (pointer == 0x05) calibration = value & 0x7FFF;
        if (pointer == 0x06) mask = value & 0xFC03;
        if (pointer == 0x07) limit = static_cast<uint16_t>(value);
    }

    bool alert() const override { return flags & EXCEEDED || (mask & 0x0400 && flags & READY); }

private:
    static constexpr int EXCEEDED = 0x10, READY = 0x08, MATH = 0x04, LATCH = 0x01;

    void reset() {
        shunt = bus = power = current = last_current = 0;
        calibration = mask = limit = 0;
        flags = 0;
        configure(0x4127);
    }

    void configure(uint16_t value) {
        static constexpr double MICROS[] = {140, 204, 332, 588, 1100, 2116, 4156, 8244};
        config = value;
        shunts = buses = powers = currents = Mean();
        std::vector<Conversion> list;
        if (value & 1) list.push_back({Input::SHUNT, MICROS[value >> 3 & 7]});
        if (value & 2) list.push_back({Input::BUS, MICROS[value >> 6 & 7]});
        if (!list.empty()) flags &= ~READY;
        start(list, times(), value & 4);
    }

    int times() const { return AVERAGES[config >> 9 & 7]; }

    // Current follows the shunt's conversion, and power that of the bus, by the current before it.
    void converted(Input input, double volts) override {
        if (input == Input::SHUNT) {
            const int64_t code = rounded(volts / 2.5e-6, -0x8000, 0x7FFF);
            last_current = bounded(code * calibration / 2048, -0x8000, 0x7FFF);
            shunts.add(code);
            currents.add(last_current);
        } else {
            const int64_t code = rounded(volts / 1.25e-3, 0, 0x7FFF);
            buses.add(code);
            powers.add(bounded(std::abs(last_current) * code / 20000, 0, 0xFFFF));
        }
        if (times() == 1) publish(input);
    }

    void finished() override {
        if (times() > 1 && config & 1) publish(Input::SHUNT);
        if (times() > 1 && config & 2) publish(Input::BUS);
        flags = (flags & ~MATH) | READY | (overflow ? MATH : 0);
        overflow = false;
        compare();
    }

    void publish(Input input) {
        (input == Input::SHUNT ? shunt : bus) = (input == Input::SHUNT ? shunts : buses).take();
        (input == Input::SHUNT ? current : power) = (input == Input::SHUNT ? currents : powers).take();
    }

    // Of functions set together, that of the highest bit counts.
    void compare() {
        const bool over = mask & 0x8000   ? shunt > static_cast<int16_t>(limit)
                          : mask & 0x4000 ? shunt < static_cast<int16_t>(limit)
                          : mask & 0x2000 ? bus > limit
                          : mask & 0x1000 ? bus < limit
                          : mask & 0x0800 ? power > limit
                                          : false;
        if (over) flags |= EXCEEDED;
        if (!over && !(mask & LATCH)) flags &= ~EXCEEDED;
    }

    int64_t bounded(int64_t value, int64_t least, int64_t most) {
        overflow |= value < least || value > most;
        return std::clamp(value, least, most);
    }

    uint16_t config = 0, calibration = 0, mask = 0, limit = 0;
    int flags = 0;
    bool overflow = false;
    int64_t shunt = 0, bus = 0, power = 0, current = 0, last_current = 0;
    Mean shunts, buses, powers, currents;
};

class Ina219 : public Chip {
public:
    explicit Ina219(const Rail& rail) : Chip(rail) { reset(); }

    uint64_t look(int number) const override {
        switch (number) {
            case 0x00: return config;
            case 0x01: return static_cast<uint16_t>(shunt);
            case 0x02: return static_cast<uint16_t>(bus << 3 | (ready ? 2 : 0) | (overflow ? 1 : 0));
            case 0x03: return static_cast<uint16_t>(power);
            case 0x04: return static_cast<uint16_t>(current);
            case 0x05: return calibration;
            default: return 0;
        }
    }

    uint64_t read() override {
        if (pointer == 0x03) ready = false;
        return look(pointer);
    }

    void write(uint64_t value) override {
        if (pointer == 0x00 && value & 0x8000) return reset();
        if (pointer == 0x00) configure(value & 0x3FFF);
        if (pointer == 0x05) calibration = value & 0xFFFE;
        if (pointer == 0x05) calculate();
    }

private:
    void reset() {
        shunt = bus = power = current = 0;
        calibration = 0;
        ready = overflow = false;
        configure(0x399F);
    }

    // All samples of the shunt, then all of the bus.
    void configure(uint16_t value) {
        config = value;
        shunts = buses = Mean();
        std::vector<Conversion> list;
        if (value & 1) list.insert(list.end(), samples(value >> 3), {Input::SHUNT, micros(value >> 3)});
        if (value & 2) list.insert(list.end(), samples(value >> 7), {Input::BUS, micros(value >> 7)});
        if (!list.empty()) ready = false;
        start(list, 1, value & 4);
    }

    // Of a field SADC or BADC: samples that are averaged; bits of each, and how long it takes.
    static size_t samples(int field) { return field & 8 ? size_t{1} << (field & 7) : 1; }
    static int bits(int field) { return field & 8 ? 12 : 9 + (field & 3); }
    static double micros(int field) {
        static constexpr double MICROS[] = {84, 148, 276, 532};
        return MICROS[bits(field) - 9];
    }

    void converted(Input input, double volts) override {
        const bool of_shunt = input == Input::SHUNT;
        const int field = of_shunt ? config >> 3 : config >> 7;
        const double step = (of_shunt ? 10e-6 : 4e-3) * (1 << (12 - bits(field)));
        const int64_t most = of_shunt ? 4000 << (config >> 11 & 3) : config & 0x2000 ? 8000 : 4000;
        const int64_t code = rounded(volts / step, -0x10000, 0x10000) * (1 << (12 - bits(field)));
        auto& codes = of_shunt ? shunts : buses;
        codes.add(std::clamp<int64_t>(code, of_shunt ? -most : 0, most));
        if (++count < samples(field)) return;
        count = 0;
        (of_shunt ? shunt : bus) = codes.take();
        calculate();
    }

    void finished() override { ready = true; }

    void calculate() {
        const int64_t amps = shunt * calibration / 4096;
        current = std::clamp<int64_t>(amps, -0x8000, 0x7FFF);
        const int64_t watts = std::abs(current) * bus / 5000;
        power = std::min<int64_t>(watts, 0xFFFF);
        overflow = current != amps || power != watts;
    }

    uint16_t config = 0, calibration = 0;
    bool ready = false, overflow = false;
    size_t count = 0;
    int64_t shunt = 0, bus = 0, power = 0, current = 0;
    Mean shunts, buses;
};

class Ina228 : public Chip {
public:
    explicit Ina228(const Rail& rail) : Chip(rail) { reset(); }

    int width() const override {
        switch (pointer) {
            case 0x04: case 0x05: case 0x07: case 0x08: return 3;
            case 0x09: case 0x0A: return 5;
            default: return 2;
        }
    }

    uint64_t look(int number) const override {
        constexpr uint64_t BYTES_3 = 0xFFFFFF, BYTES_5 = 0xFFFFFFFFFF;
        switch (number) {
            case 0x00: return config;
            case 0x01: return adc_config;
            case 0x02: return calibration;
            case 0x03: return coefficient;
            case 0x04: return static_cast<uint64_t>(shunt << 4) & BYTES_3;
            case 0x05: return static_cast<uint64_t>(bus << 4) & BYTES_3;
            case 0x06: return static_cast<uint16_t>(die);
            case 0x07: return static_cast<uint64_t>(current << 4) & BYTES_3;
            case 0x08: return static_cast<uint64_t>(power);
            case 0x09: return energy / (16 * MICROS_PER_S) & BYTES_5;
            case 0x0A: return static_cast<uint64_t>(floor_seconds(charge)) & BYTES_5;
            case 0x0B: return static_cast<uint16_t>(mask | flags);
            case 0x3E: return 0x5449;
            case 0x3F: return 0x2281;
            default: return number >= 0x0C && number <= 0x11 ? limits[number - 0x0C] : 0;
        }
    }

    uint64_t read() override {
        const uint64_t value = look(pointer);
        if (pointer == 0x09) flags &= ~ENERGY_OVER;
        if (pointer == 0x0A) flags &= ~CHARGE_OVER;
        if (pointer == 0x0B && mask & LATCH) flags &= ~(LIMITS | READY);
        return value;
    }

    void write(uint64_t value) override {
        if (pointer == 0x00 && value & 0x8000) return reset();
        if (pointer == 0x00) {
            if (value & 0x4000) clear();
            config = value & 0x3FF0;
        }
        if (pointer == 0x01) configure(static_cast<uint16_t>(value));
        if (pointer == 0x02) calibration = value & 0x7FFF;
        if (pointer == 0x03) coefficient = value & 0x3FFF;
        if (pointer == 0x0B) mask = value & 0xF000;
        if (pointer >= 0x0C && pointer <= 0x11) limits[pointer - 0x0C] = static_cast<uint16_t>(value);
    }

    bool alert() const override {
        return flags & (LIMITS | ENERGY_OVER | CHARGE_OVER | MATH) || (mask & 0x4000 && flags & READY);
    }

private:
    static constexpr int LATCH = 0x8000, ENERGY_OVER = 0x0800, CHARGE_OVER = 0x0400, MATH = 0x0200, LIMITS = 0x00FC;
    static constexpr int READY = 0x0002, MEMORY_SOUND = 0x0001;
    static constexpr int64_t MICROS_PER_S = 1000000, CODES = 1 << 19;

    void reset() {
        static constexpr uint16_t LIMITS_AT_RESET[] = {0x7FFF, 0x8000, 0x7FFF, 0x0000, 0x7FFF, 0xFFFF};
        std::copy(std::begin(LIMITS_AT_RESET), std::end(LIMITS_AT_RESET), limits);
        shunt = bus = die = power = current = 0;
        config = coefficient = 0;
        mask = 0;
        calibration = 0x1000;
        flags = MEMORY_SOUND;
        clear();
        configure(0xFB68);
    }

    void clear() {
        energy = 0;
        charge = 0;
        flags &= ~(ENERGY_OVER | CHARGE_OVER | MATH);
    }

    void configure(uint16_t value) {
        static constexpr double MICROS[] = {50, 84, 150, 280, 540, 1052, 2074, 4120};
        adc_config = value;
        shunts = buses = dies = currents = Mean();
        std::vector<Conversion> list;
        if (value & 0x4000) list.push_back({Input::DIE, MICROS[value >> 3 & 7]});
        if (value & 0x2000) list.push_back({Input::SHUNT, MICROS[value >> 6 & 7]});
        if (value & 0x1000) list.push_back({Input::BUS, MICROS[value >> 9 & 7]});
        list_micros = 0;
        for (const auto& conversion : list) list_micros += static_cast<int64_t>(conversion.micros);
        if (!list.empty()) flags &= ~(READY | MATH);
        start(list, times(), value & 0x8000, (config >> 6 & 0xFF) * 2000);
    }

    int times() const { return AVERAGES[adc_config & 7]; }

    // Charge and energy are added up in each turn of the list, by the chip's own clock, however many are averaged.
    void converted(Input input, double value) override {
        if (input == Input::SHUNT) {
            const int64_t code = rounded(value / (config & 0x10 ? 78.125e-9 : 312.5e-9), -CODES, CODES - 1);
            last_current = amperes(code);
            shunts.add(code);
            currents.add(last_current);
            if (adc_config & 0x8000) add_charge(last_current * list_micros);
        } else if (input == Input::BUS) {
            const int64_t code = rounded(value / 195.3125e-6, 0, CODES - 1);
            buses.add(code);
            if (adc_config & 0x8000) add_energy(static_cast<uint64_t>(watts(last_current, code) * list_micros));
        } else {
            dies.add(rounded(value / 7.8125e-3, -0x8000, 0x7FFF));
        }
        if (times() == 1) publish(input);
    }

    void finished() override {
        if (times() > 1 && adc_config & 0x4000) publish(Input::DIE);
        if (times() > 1 && adc_config & 0x2000) publish(Input::SHUNT);
        if (times() > 1 && adc_config & 0x1000) publish(Input::BUS);
        flags |= READY;
        compare();
    }

    void publish(Input input) {
        if (input == Input::DIE) die = dies.take();
        if (input == Input::SHUNT) shunt = shunts.take(), current = currents.take();
        if (input == Input::BUS) bus = buses.take(), power = watts(current, bus);
    }

    int64_t amperes(int64_t code) {
        if (!calibration) return 0;
        // The shunt's resistance has grown by so much since 25 degrees.
        const double growth = config & 0x20 ? 1 + 1e-6 * coefficient * (7.8125e-3 * static_cast<double>(die) - 25) : 1;
        const auto exact = static_cast<double>(code * 4096) / (calibration * growth);
        return bounded(static_cast<int64_t>(exact), -CODES, CODES - 1);
    }

    int64_t watts(int64_t amps, int64_t volts) { return bounded(std::abs(amps) * volts / 16384, 0, 0xFFFFFF); }

    int64_t bounded(int64_t value, int64_t least, int64_t most) {
        if (value < least || value > most) flags |= MATH;
        return std::clamp(value, least, most);
    }

    // Both are modulo 2**40 LSB, kept in microseconds of them.
    void add_energy(uint64_t added) {
        constexpr uint64_t MODULUS = (uint64_t{1} << 40) * 16 * MICROS_PER_S;
        const bool over = added >= MODULUS - energy;
        energy = over ? added - (MODULUS - energy) : energy + added;
        if (over) flags |= ENERGY_OVER;
    }

    void add_charge(int64_t added) {
        constexpr int64_t HALF = (int64_t{1} << 39) * MICROS_PER_S;
        charge += added;
        if (charge >= -HALF && charge < HALF) return;
        charge += charge < 0 ? 2 * HALF : -2 * HALF;
        flags |= CHARGE_OVER;
    }

    static int64_t floor_seconds(int64_t micros) {
        return micros / MICROS_PER_S - (micros % MICROS_PER_S < 0 ? 1 : 0);
    }

    void compare() {
        const auto limit = [&](int i) { return static_cast<int16_t>(limits[i]); };
        const bool over[] = {power >> 8 > limits[5], bus >> 4 < limit(3),   bus >> 4 > limit(2),
                             shunt >> 4 < limit(1),  shunt >> 4 > limit(0), die > limit(4)};
        for (int i = 0; i < 6; ++i) {
            const int flag = 4 << i;
            if (over[i]) flags |= flag;
            if (!over[i] && !(mask & LATCH)) flags &= ~flag;
        }
    }

    uint16_t config = 0, adc_config = 0, calibration = 0, coefficient = 0, limits[6] = {};
    int mask = 0, flags = 0;
    int64_t shunt = 0, bus = 0, die = 0, power = 0, current = 0, last_current = 0, list_micros = 0;
    uint64_t energy = 0;
    int64_t charge = 0;
    Mean shunts, buses, dies, currents;
};

class Ina229 : public Ina228 {
public:
    using Ina228::Ina228;

    uint64_t look(int number) const override { return number == 0x3F ? 0x2291 : Ina228::look(number); }
};

// A controller of regulators (SLVSA33A; commands: SLUU337). READ_IOUT is as UCD9244-EP, its sibling of one stage a rail,
// has it (SLVSC86A, 8.3.16): a short sample every 200 us for each rail, through a filter of 3.5 samples' time, which is a
// quarter of each new one; nothing of what flows between samples is seen. Volts are those of the last sample. A word's low
// byte comes first.
class Ucd9248 : public Chip {
public:
    explicit Ucd9248(const Rail& rail) : Chip(rail) {
        constexpr double SAMPLE = 5;  // us
        start({{Input::SHUNT, SAMPLE}, {Input::BUS, SAMPLE}, {Input::DIE, rail.update_s * 1e6 - 2 * SAMPLE}}, 1, true);
    }

    int width() const override {
        switch (pointer) {
            case PAGE: case PHASE: case VOUT_MODE: return 1;
            case DEVICE_ID: return 8;
            default: return 2;
        }
    }

    uint64_t look(int number) const override {
        switch (number) {
            case PAGE: return page;
            case PHASE: return phase;
            case VOUT_MODE: return EXPONENT & 0x1F;
            case DEVICE_ID: return 0x0755434439323438;  // its length, "UCD9248"
            case READ_VOUT: return shown() ? swapped(rounded(std::ldexp(volts, -EXPONENT), 0, 0xFFFF)) : 0;
            case READ_IOUT: return swapped(linear11(shown() ? amps : 0));
            case READ_POUT: return swapped(linear11(shown() ? amps * volts : 0));
            default: return 0xFFFF;
        }
    }

    void write(uint64_t value) override {
        if (pointer == PAGE) page = static_cast<uint8_t>(value);
        if (pointer == PHASE) phase = static_cast<uint8_t>(value);
    }

private:
    static constexpr int PAGE = 0x00, PHASE = 0x04, VOUT_MODE = 0x20, READ_VOUT = 0x8B, READ_IOUT = 0x8C,
                         READ_POUT = 0x96, DEVICE_ID = 0xFD;
    static constexpr int EXPONENT = -12;

    void converted(Input input, double value) override {
        if (input == Input::SHUNT) amps = sampled ? amps + (value - amps) / 4 : value;
        if (input == Input::SHUNT) sampled = true;
        if (input == Input::BUS) volts = value;
    }

    void finished() override {}

    bool shown() const { return page == rail.page && phase == 0xFF; }

    static uint64_t swapped(int64_t word) {
        return static_cast<uint64_t>((word & 0xFF) << 8 | (word >> 8 & 0xFF));
    }

    // With the least exponent that the mantissa has room for.
    static int64_t linear11(double number) {
        int exponent = -16;
        while (exponent < 15 && std::abs(std::ldexp(number, -exponent)) > 1023) ++exponent;
        return (exponent & 0x1F) << 11 | (rounded(std::ldexp(number, -exponent), -1024, 1023) & 0x7FF);
    }

    uint8_t page = 0, phase = 0;
    bool sampled = false;
    double amps = 0, volts = 0;
};

inline std::unique_ptr<Chip> make_chip(const Rail& rail) {
    if (rail.kind == 9248) return std::make_unique<Ucd9248>(rail);
    if (rail.kind == 229) return std::make_unique<Ina229>(rail);
    if (rail.kind == 219) return std::make_unique<Ina219>(rail);
    if (rail.kind == 228) return std::make_unique<Ina228>(rail);
    return std::make_unique<Ina226>(rail);
}

// The two wires and what hangs on them. A wire is high where nobody pulls it low; chips pull SDA alone.
//
// `violations` counts what a data sheet forbids a master: SDA changed in the instant in which SCL rises (the chip takes
// the bit before), SCL high for under 0.6 us or low for under 1.3 us.
class Bus {
public:
    void add(const Rail& rail) { chips.push_back(make_chip(rail)); }

    Chip& chip(size_t number) { return *chips.at(number); }
    size_t size() const { return chips.size(); }

    // What the master pulls from `time` on.
    void drive(double time, bool scl_low, bool sda_low) {
        const bool falls = scl && scl_low, rises = !scl && !scl_low, old_sda = sda();
        if (falls) fall(time);
        if (rises) rise(time);
        if (rises && master_sda_low != sda_low) ++violations;
        master_sda_low = sda_low;
        if (sda() != old_sda && scl && !rises) sda() ? stop() : begin();
    }

    bool scl_high() const { return scl; }
    bool sda_high() const { return sda(); }

    // As a chip that lost count in the middle of a byte: pull SDA until SCL has fallen so many times.
    void jam(int falls) { jammed = falls; }

    uint64_t violations = 0;

private:
    static constexpr double TIMEOUT_S = 28e-3, HIGH_S = 0.6e-6, LOW_S = 1.3e-6;
    enum class State { IDLE, ADDRESS, POINTER, WRITE, READ };

    bool sda() const { return !master_sda_low && !pulled && !jammed; }

    void begin() {
        state = State::ADDRESS;
        bits = shift = 0;
        pulled = false;
    }

    void stop() {
        state = State::IDLE;
        pulled = false;
    }

    void rise(double time) {
        if (time - edge_time < LOW_S) ++violations;
        if (time - edge_time > TIMEOUT_S) stop();
        scl = true;
        edge_time = time;
        if (state == State::IDLE) return;
        if (bits < 8) shift = shift << 1 | (sda() ? 1 : 0);
        if (bits == 8) acknowledged = !sda();
        ++bits;
    }

    void fall(double time) {
        if (time - edge_time < HIGH_S) ++violations;
        scl = false;
        edge_time = time;
        jammed = std::max(0, jammed - 1);
        if (state == State::IDLE) return;
        if (bits == 9) bits = shift = 0;
        if (bits == 8) {
            pulled = state != State::READ && take(time, shift & 0xFF);
            if (state != State::READ && !pulled) state = State::IDLE;
            reading_begins = state == State::READ && pulled;
        } else {
            next_bit(time);
        }
    }

    // Between two bits: what the chip pulls in the next one.
    void next_bit(double time) {
        pulled = false;
        if (state != State::READ) return;
        if (bits == 0 && !reading_begins && !acknowledged) return stop();  // the master has enough
        if (bits == 0) given = left ? static_cast<int>(data >> 8 * --left & 0xFF) : 0xFF;
        if (bits == 0) reading_begins = false;
        pulled = talker->answers(time) && !(given >> (7 - bits) & 1);
    }

    // A byte from the master; whether the chip acknowledges it.
    bool take(double time, int byte) {
        if (state == State::ADDRESS) {
            const auto found = std::find_if(chips.begin(), chips.end(),
                                            [&](const auto& chip) { return chip->rail.address == byte >> 1; });
            if (found == chips.end() || !(*found)->answers(time)) return false;
            talker = found->get();
            state = byte & 1 ? State::READ : State::POINTER;
            left = talker->width();
            if (byte & 1) talker->advance(time);
            if (byte & 1) data = talker->read();  // whole, so that no half of it is of another conversion
            return true;
        }
        if (!talker->answers(time)) return false;
        if (state == State::POINTER) {
            talker->pointer = static_cast<uint8_t>(byte);
            left = talker->width();
            data = 0;
            state = State::WRITE;
            return true;
        }
        data = data << 8 | static_cast<unsigned>(byte);
        if (--left == 0) {
            talker->advance(time);
            talker->write(data);
        }
        return true;
    }

    std::vector<std::unique_ptr<Chip>> chips;
    Chip* talker = nullptr;
    State state = State::IDLE;
    bool scl = true, master_sda_low = false, pulled = false, acknowledged = false, reading_begins = false;
    int bits = 0, shift = 0, given = 0, left = 0, jammed = 0;
    uint64_t data = 0;
    double edge_time = -1;
};

// Three wires, a line for each chip, low while it is selected, and what hangs on them (SPI, mode 1): data change with the
// rising edge of the clock, and are taken with the falling one. MISO is high where nobody drives it.
//
// A frame: six bits of a register's number, a 0, whether it is read; then the register, the first bit most significant.
// It is written with its last bit. `violations` counts what a data sheet forbids a master: a level of the clock of under
// 50 ns, a line that changes while the clock is high, MOSI that changes as the clock falls.
class SpiBus {
public:
    void add(const Rail& rail) { chips.push_back(make_chip(rail)); }

    Chip& chip(size_t number) { return *chips.at(number); }
    size_t size() const { return chips.size(); }

    void drive(double time, bool clock, bool mosi, unsigned lines) {
        if (lines != selected) select(time, lines);
        if (clock != high && time - edge_time < LEVEL_S) ++violations;
        if (high && !clock && mosi != said) ++violations;
        said = mosi;
        if (!high && clock) rise(time);
        if (high && !clock) fall(time);
        if (clock != high) edge_time = time;
        high = clock;
    }

    bool miso_high() const { return miso; }

    uint64_t violations = 0;

private:
    static constexpr double LEVEL_S = 50e-9;

    void select(double time, unsigned lines) {
        if (high || time - edge_time < LEVEL_S) ++violations;
        selected = lines;
        bits = 0;
        taken = 0;
        miso = true;
        talker = nullptr;
        for (auto& chip : chips)
            if (lines == (~(1U << chip->rail.address) & 0xF) && chip->answers(time)) talker = chip.get();
    }

    void rise(double time) {
        if (!talker || bits < 8 || !reads) return;
        const int left = 8 * width - 1 - (bits - 8);
        miso = left < 0 || !talker->answers(time) || (data >> left & 1);
    }

    void fall(double time) {
        if (!talker) return;
        taken = taken << 1 | (said ? 1 : 0);
        ++bits;
        if (bits == 8) {
            reads = taken & 1;
            talker->pointer = static_cast<uint8_t>(taken >> 2 & 0x3F);
            width = talker->width();
            taken = 0;
            if (!reads) return;
            talker->advance(time);
            data = talker->read();  // whole, so that no half of it is of another conversion
        }
        if (bits == 8 + 8 * width && !reads) {
            talker->advance(time);
            talker->write(taken);
        }
    }

    std::vector<std::unique_ptr<Chip>> chips;
    Chip* talker = nullptr;
    unsigned selected = 0xF;
    bool high = false, said = false, miso = true, reads = false;
    int bits = 0, width = 0;
    uint64_t taken = 0, data = 0;
    double edge_time = -1;
};

}  // namespace sensors

#endif
